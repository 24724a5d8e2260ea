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

import sys
from functools import partial

from cypar.backends.base import Backend
from cypar.backends.stall import CHECK_S, StallWatch, no_progress, progress_of
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
        call.source.chunks_ufuncs = _chunks_ufuncs(call)
        # with either of these, the whole task is needed again
        call.source.takes_apart = (
            call.options.batch_size <= 1 and call.options.timeout_s is None
        )
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


def _chunks_ufuncs(call):
    """Whether calls of NumPy's ufuncs may come, and several be run in one go."""
    options = call.options
    by_one = options.batch_size or options.timeout_s is not None or call.outcomes.hook
    if by_one or "numpy" not in sys.modules:
        return False
    # of no use without NumPy
    from cypar.core import _ufunc_tasks

    return _ufunc_tasks.learn()


def _n_workers(call):
    """Threads that will run tasks at once; few tasks leave each of them more cores."""
    n_jobs = call.options.n_jobs
    return min(n_jobs, call.source.drawn) if call.source.ended else n_jobs


def _run(call, work):
    """Run ``work(call, parker)`` on as many threads as it takes."""
    call.recruit = partial(_helper_threads.run, partial(work, call))
    # with a timeout the caller must watch, and one helper more does its work
    if is_worker_thread() and call.options.timeout_s is None:
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
    from cypar.core import traceback_text

    text = traceback_text.format_task_traceback(exc, *task)
    traceback_text.attach_task_traceback(exc, text)
    traceback_text.label_with_task(exc, None, task)
    return exc


def _wait(call):
    """Wait for the end of the call, looking at the timeout of running tasks."""
    timeout_s = call.options.timeout_s
    if timeout_s is None and call.outcomes.wait(CHECK_S):
        return
    watch = StallWatch()
    while not call.outcomes.wait(_slice(call, timeout_s, watch)):
        if timeout_s is not None:
            _find_late(call, timeout_s)
        if watch.is_over_limit(call.is_stalled(), progress_of(call)):
            raise no_progress(call, watch.limit_s)


def _slice(call, timeout_s, watch):
    """Return how long to wait before the next look, in seconds."""
    if timeout_s is None:
        return watch.check_s
    return min(max(call.time_left(timeout_s), 1e-4), watch.check_s)


def _find_late(call, timeout_s):
    """Give late tasks their outcome; their threads go on, and others join instead."""
    late = call.overdue(timeout_s)
    while late is not None:
        # needed only after a failure, and slow to import
        from cypar.core.traceback_text import describe_task

        task = call.give_up(late)
        described = (None, None) if task is None else describe_task(*task)
        error = timeout_error(late, timeout_s)
        call.outcomes.put_error(late, error, "timeout", *described)
        call.start_worker()
        late = call.overdue(timeout_s)
