"""Replace workers that have run their share of tasks or hold too much memory.

Between tasks, so that nothing is lost: what a worker has not begun is taken back, and
it is killed once it has nothing to do.
"""

from __future__ import annotations

import os
import time

from cypar.backends.pool import balance

MEMORY_CHECK_S = 0.01  # at least this long between two looks at one worker
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def recycle(dispatcher):
    """Let go of the workers of a call that must not run more tasks."""
    life = dispatcher.life
    for worker in list(dispatcher.workers):
        if life.max_bytes is not None and not worker.is_spent:
            worker.is_spent = holds_too_much(life, worker)
        if not worker.is_spent:
            continue
        for slot in (0, 1):
            if life.max_tasks is None and worker.batches[slot] is not None:
                tasks = balance.recall(worker, slot, 0)
                if tasks:
                    dispatcher.call.source.give_back(tasks)
        if not worker.n_batches:
            dispatcher.forget(worker)
            dispatcher.pool.discard([worker])


def holds_too_much(life, worker):
    """Tell whether a worker that has run something holds more than it may."""
    now = time.monotonic()
    if not worker.n_tasks or now < worker.next_memory_check:
        return False
    worker.next_memory_check = now + MEMORY_CHECK_S
    return own_bytes(worker) > life.max_bytes


def own_bytes(worker):
    """Return the memory of a worker that is not mapped from files or shared."""
    if not worker.ready:
        return 0
    try:
        with open(f"/proc/{worker.pid}/statm", "rb") as file:
            _, resident, shared = file.read().split()[:3]
    except (OSError, ValueError):
        return 0  # it has just ended, or the system has no such file
    return (int(resident) - int(shared)) * _PAGE_BYTES
