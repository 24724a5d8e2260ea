"""Run on a `concurrent.futures` executor, or anything with its interface."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from cypar.backends.base import Backend
from cypar.backends.drive import Driver
from cypar.core.cpu import cpu_count
from cypar.core.errors import WorkerCrash
from cypar.transport import serialize
from cypar.transport.culprit import explain

SIZE_ATTRIBUTES = ("_max_workers", "max_workers", "n_workers", "_num_workers")


class ExecutorAdapter(Backend):
    """Runs calls on an executor of the user's, which stays the user's to shut down.

    Parameters
    ----------
    executor : concurrent.futures.Executor
        Needed are ``submit`` and futures with ``add_done_callback``.
    """

    is_foreign = True
    supports_inner_max_num_threads = False

    def __init__(self, executor):
        self.executor = executor
        self.name = self.label = type(executor).__name__
        self.uses_threads = isinstance(executor, ThreadPoolExecutor)
        self.supports_sharedmem = self.uses_threads
        self.default_n_jobs = -1  # unset means the executor's own size

    def effective_n_jobs(self, n_jobs):
        if n_jobs is None or n_jobs == -1:
            return self._size()
        if n_jobs == 0:
            raise ValueError("n_jobs=0 has no meaning: use 1 or more, or -1 for all")
        return n_jobs if n_jobs > 0 else max(1, self._size() + 1 + n_jobs)

    def _size(self):
        for name in SIZE_ATTRIBUTES:
            size = getattr(self.executor, name, None)
            if isinstance(size, int) and size > 0:
                return size
        return cpu_count()

    def run(self, call):
        if not self.uses_threads:
            call.source.capture = _capture
        options = call.options
        futures = set()

        def submit(batch, callback):
            future = self.executor.submit(batch)
            futures.add(future)
            future.add_done_callback(callback)
            return future

        def retrieve(job, out):
            futures.discard(job)
            try:
                return job.result()
            except RuntimeError as exc:
                if "Broken" in type(exc).__name__ or "Terminated" in type(exc).__name__:
                    raise _crash(driver, exc) from exc
                raise

        driver = Driver(call, submit, retrieve, (options.nesting_level, None, None))
        try:
            driver.run()
        finally:
            for future in futures:
                future.cancel()


def _capture(index, task):
    """Pickle a task when it is drawn; the executor would do so at some later time."""
    try:
        return serialize.dumps(task)
    except Exception as exc:
        raise explain(index, *task, exc) from exc


def _crash(driver, exc):
    indexes = sorted(i for flight in driver.flights for i in flight.indexes)
    others = f", or one of the tasks {indexes}" if indexes else ""
    return WorkerCrash(
        f"the executor lost a worker ({exc}) while it ran a task of this call{others}: "
        "it is broken and must be replaced. cypar's own processes survive that"
    )
