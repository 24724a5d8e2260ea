"""The sequential backend: tasks run in the caller, with no parallel code at all."""

from __future__ import annotations

from cypar.backends.base import Backend
from cypar.core.cpu import effective_n_jobs


class SequentialBackend(Backend):
    """Run every task in the caller's thread; nothing is pickled."""

    name = "sequential"
    label = "SequentialBackend"
    supports_sharedmem = True

    def effective_n_jobs(self, n_jobs):
        effective_n_jobs(n_jobs)  # the same errors for bad values as everywhere
        return 1

    def run(self, call):
        raise RuntimeError("a sequential call runs in Parallel itself, without a Call")
