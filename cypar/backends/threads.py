"""The thread backend: worker threads run the compiled loop of core._worker_loop.

::

    caller:  fill the FIFO -> ask one helper to join -> wait (native, no GIL)
    worker:  claim one task -> run -> store -> draw one more; while tasks wait,
             it asks one more worker to join, up to n_jobs

The caller runs no task, so Ctrl-C and ``timeout`` act at once. A caller that is
itself a worker (a nested call) counts as one of the n_jobs and works on its own
call: nested calls can never wait for threads that do not exist.
"""

from __future__ import annotations

from functools import partial

from cypar.backends.base import Backend
from cypar.core import _helper_threads
from cypar.core._draw_pace import DrawPace
from cypar.core._helper_threads import Parker
from cypar.core._thread_limits import limits_for
from cypar.core._worker_loop import is_worker_thread, work
from cypar.core.cpu import effective_n_jobs
from cypar.core.errors import timeout_error


class ThreadBackend(Backend):
    """Run tasks on threads of this process; arguments are passed as they are."""

    name = "threading"
    label = "ThreadingBackend"
    supports_sharedmem = True

    def effective_n_jobs(self, n_jobs):
        return effective_n_jobs(n_jobs)

    def run(self, call):
        call.explain = _explain
        call.source.pace = _pace(call.options)
        call.source.packs_kernels = True
        call.source.fill()
        if call.outcomes.done or call.stopping:
            return
        limits = limits_for(_n_workers(call), call.options.inner_max_num_threads)
        if limits is None:
            _run(call, work)
            return
        limits.begin()
        try:
            _run(call, partial(limits.run, work))
        finally:
            limits.end()


def _n_workers(call):
    """Threads that will run tasks at once; few tasks leave each of them more cores."""
    n_jobs = call.options.n_jobs
    return min(n_jobs, call.source.drawn) if call.source.ended else n_jobs


def _run(call, work):
    """Run ``work(call, parker)`` on as many threads as it takes."""
    call.recruit = partial(_helper_threads.run, partial(work, call))
    if is_worker_thread():
        call.joined = 1
        call.open_gate()
        work(call, Parker())
    else:
        try:
            call.start_worker()
        except RuntimeError:  # no thread can be started: the caller works
            call.recruit = None
            work(call, Parker())
    _wait(call)


def _pace(options):
    """How far to draw ahead; None where the user has said it exactly."""
    if options.batch_size or options.explicit_pre_dispatch or not options.pre_dispatch:
        return None
    return DrawPace(options.pre_dispatch)


def _explain(exc, task):
    """Put the task's traceback with parameter values at the end of ``exc``'s chain."""
    # needed only after a failure, and slow to import
    from cypar.core.traceback_text import attach_task_traceback, format_task_traceback

    function, args, kwargs = task
    attach_task_traceback(exc, format_task_traceback(exc, function, args, kwargs))
    return exc


def _wait(call):
    """Wait for the end of the call, looking at the timeout of running tasks."""
    timeout_s = call.options.timeout_s
    if timeout_s is None:
        call.outcomes.wait()
        return
    while not call.outcomes.wait(max(call.time_left(timeout_s), 1e-4)):
        late = call.overdue(timeout_s)
        if late is not None:
            call.outcomes.put_error(late, timeout_error(late, timeout_s))
