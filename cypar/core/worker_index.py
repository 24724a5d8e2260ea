"""The number of the worker that a task runs on: 0 to n_jobs-1, within its call.

A worker process has one number at a time; a thread has one per call that it works on.
"""

from __future__ import annotations

import threading


class _PerThread(threading.local):
    index: int | None = None


_here = _PerThread()
_of_process = 0


def worker_index() -> int:
    """Return the number of the worker that runs this task, from 0 to n_jobs-1.

    No two tasks of one call that run at the same time have the same number, and a
    worker that replaces another one gets its number. So it can choose a device or
    a port. In the caller itself, as with ``n_jobs=1``, it is 0.

    Examples
    --------
    >>> from cypar import Parallel, delayed, worker_index
    >>> run = Parallel(n_jobs=2, backend='threading')
    >>> set(run(delayed(worker_index)() for _ in range(9))) <= {0, 1}
    True
    """
    index = _here.index
    return _of_process if index is None else index


def swap(index: int | None) -> int | None:
    """Set the number of this thread and return the old one."""
    old = _here.index
    _here.index = index
    return old


def set_of_process(index: int) -> None:
    """Set the number of this worker process."""
    global _of_process
    _of_process = index
