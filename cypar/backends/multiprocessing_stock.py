"""What must be known of the inside of `multiprocessing.Pool`, of Python 3.10 to 3.14.

The one place that uses its private names. A Pool has three daemon threads:

    worker handler   replaces dead workers: here it waits instead (SealedContext)
    task handler     task queue -> ``_inqueue``, a pipe that all workers read
    result handler   ``_outqueue``, a pipe that all workers write -> callbacks
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import warnings
import weakref
from functools import partial

LOCK_S = 0.05  # a thread of a Pool needs its lock for one short message only
THREAD_S = 1.0  # the threads of a Pool end at once when their pipes are closed


class SealedContext:
    """A context that makes a number of processes and no more, and knows them.

    The thread in which the Pool replaces dead workers waits here until the Pool is
    taken apart. It would also end the Pool's other threads, by messages that might
    get into the middle of one that a killed worker has begun.
    """

    def __init__(self, context, n):
        self._context = context
        self._left = n
        self.processes = []
        self.taken_apart = threading.Event()

    def __getattr__(self, name):
        return getattr(self._context, name)

    def Process(self, *args, target, **kwargs):  # noqa: N802 (the Pool calls it)
        if self._left == 0:
            self.taken_apart.wait()
            return _NoProcess()
        self._left -= 1
        target = partial(run_quietly, target)
        process = self._context.Process(*args, target=target, **kwargs)
        self.processes.append(process)
        return process


def run_quietly(worker, *args):
    """Run the Pool's loop in a worker; without a word if the parent is no more.

    An answer may fail before the end of the parent has killed this process.
    """
    try:
        worker(*args)
    except BrokenPipeError:
        os._exit(1)


class _NoProcess:
    """What the Pool may take for a worker while its threads end."""

    name = ""
    exitcode = None

    def start(self):
        pass


def guard_exitcode(process):
    """Let one thread at a time ask a started process for its exit code.

    The Pool's thread asks, and so do we. What a fork server says of a child can be
    read only once; whoever comes second takes the end of file for exit code 255.
    """
    lock = threading.Lock()
    popen = weakref.ref(process._popen)  # no cycle
    poll = type(process._popen).poll

    def poll_alone(*flags):
        with lock:
            return poll(popen(), *flags)

    process._popen.poll = poll_alone


def unguard_exitcode(process):
    """In a forked child: undo `guard_exitcode`; a thread of the parent may be in it."""
    vars(process._popen).pop("poll", None)


def give_up_exitcode(process):
    """Say that a process is over whose exit code never comes; else it stays open.

    255 is what a fork server's processes have then.
    """
    if process._popen.returncode is None:
        process._popen.returncode = 255


def cancel_finalizer(pool):
    """Leave the end of a Pool to `dismantle`, also at the interpreter's end.

    Its finalizer waits for workers that are killed, and for locks that they held.
    """
    pool._terminate.cancel()


def dismantle(pool, taken_apart):
    """End the threads of a Pool whose workers are gone, and close its pipes.

    Not ``pool.terminate()``: it waits for locks that a killed worker may have held.
    Can be begun again after an exception.
    """
    pool._state = "TERMINATE"
    threads = (pool._worker_handler, pool._task_handler, pool._result_handler)
    for thread in threads:
        thread._state = "TERMINATE"
    with contextlib.suppress(OSError):  # closed by an earlier attempt
        pool._change_notifier.put(None)  # nobody but the Pool's threads uses it
    pool._taskqueue.put(None)
    # The task handler may wait in a write to workers: without readers it fails.
    pool._inqueue._reader.close()
    _free_lock(pool)
    pool._task_handler.join(THREAD_S)
    # The result handler may wait for the rest of a message: the pipe's end wakes it.
    pool._outqueue._writer.close()
    pool._result_handler.join(THREAD_S)
    taken_apart.set()
    pool._worker_handler.join(THREAD_S)
    if any(thread.is_alive() for thread in threads):
        return  # another process holds the pipes; daemon threads do not matter
    pool._inqueue._writer.close()
    pool._outqueue._reader.close()
    pool._change_notifier._reader.close()
    pool._change_notifier._writer.close()
    pool._cache.clear()


def _free_lock(pool):
    """Let the task handler have the lock of the results, if a killed worker held it.

    The task handler may have it itself, for its last message: not to be taken away.
    """
    pool._task_handler.join(LOCK_S)
    lock = pool._outqueue._wlock
    if lock is not None and pool._task_handler.is_alive():
        lock.acquire(timeout=LOCK_S)
        with contextlib.suppress(ValueError):  # given back in between
            lock.release()


def forget(pool):
    """In a forked child: close the pipes of the parent's Pool, and use none."""
    pool._state = "TERMINATE"  # its __del__ would write to the parent's pipes
    for queue in (pool._inqueue, pool._outqueue, pool._change_notifier):
        queue._reader.close()
        queue._writer.close()


@contextlib.contextmanager
def no_fork_warning():
    """Ignore what Python 3.12+ says of a fork in a process that has threads.

    Workers need nothing of the other threads, and our parked helpers are gone before
    a fork; threads of BLAS or of the user may be there.
    """
    if sys.version_info < (3, 12):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", ".*use of fork.* may lead to deadlocks", DeprecationWarning
        )
        yield


@contextlib.contextmanager
def no_interrupt():
    """Put off Ctrl-C: an exception in the middle of a start or end leaves half a Pool.

    A mask is not enough, for another thread may take the signal; and it must be
    there, for a new worker has no handler of its own yet.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread
        return
    caught = []
    old = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        # None: the handler is not one of Python's, which cannot be put back
        signal.signal(signal.SIGINT, signal.SIG_DFL if old is None else old)
        if caught:
            signal.raise_signal(signal.SIGINT)


def require_descriptors(n, fd):
    """Raise OSError unless ``n`` more descriptors can be opened.

    A process that fails half way through its start leaves some open.
    """
    opened = []
    try:
        for _ in range(n):
            opened.append(os.dup(fd))
    finally:
        for copy in opened:
            os.close(copy)
