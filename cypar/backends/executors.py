"""Run on a `concurrent.futures` executor, or anything with its interface."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from cypar.backends.base import Backend
from cypar.backends.drive import SILENT, Driver, Port
from cypar.backends.remote_tasks import Nested, dump_task
from cypar.core.cpu import cpu_count

SIZE_ATTRIBUTES = ("_max_workers", "max_workers", "num_workers", "n_workers")
# Executors that pickle what is submitted at some later time, in a thread of their
# own: tasks are pickled before, for the iterator may change what they hold.
LATE_PICKLERS = ("ProcessPoolExecutor", "MPIPoolExecutor", "MPICommExecutor")


class ExecutorAdapter(Backend):
    """Runs calls on an executor of the user's, which stays the user's to shut down.

    Parameters
    ----------
    executor : concurrent.futures.Executor
        Needed are ``submit``, and futures with ``result`` and ``add_done_callback``.
    """

    is_foreign = True
    supports_inner_max_num_threads = False
    default_n_jobs = -1  # unset means the executor's own size

    def __init__(self, executor):
        self.executor = executor
        self.name = self.label = type(executor).__name__
        names = {cls.__name__ for cls in type(executor).__mro__}
        self.uses_threads = (
            isinstance(executor, ThreadPoolExecutor)
            and "InterpreterPoolExecutor" not in names  # its threads share nothing
        )
        self.supports_sharedmem = self.uses_threads
        self.pickles_late = not names.isdisjoint(LATE_PICKLERS)

    def effective_n_jobs(self, n_jobs):
        if n_jobs is None or n_jobs == -1:
            return self._size() or cpu_count()
        if n_jobs == 0:
            raise ValueError("n_jobs=0 has no meaning: use 1 or more, or -1 for all")
        if n_jobs < 0:
            n_jobs += 1 + (self._size() or cpu_count())
        return max(1, n_jobs)

    def _size(self):
        """Return how many tasks the executor runs at once, or None if it hides that."""
        for name in SIZE_ATTRIBUTES:
            size = getattr(self.executor, name, None)
            if isinstance(size, int) and size > 0:
                return size
        client = getattr(self.executor, "_client", None)  # of dask
        if callable(getattr(client, "ncores", None)):
            return sum(client.ncores().values()) or None
        return None

    def run(self, call):
        if self.pickles_late:
            call.source.capture = dump_task
        driver = Driver(call, ExecutorPort(self.executor, self._size(), call))
        try:
            driver.run()
        finally:
            for flight in driver.flights:
                cancel = getattr(flight.job, "cancel", None)
                if cancel is not None:
                    cancel()  # what has not begun


class ExecutorPort(Port):
    """An executor, as the driver sees it."""

    def __init__(self, executor, size, call):
        self.executor = executor
        self.slots = size
        self.nested = Nested(call.options.nesting_level)
        self.context = call.task_context

    def submit(self, batch, callback):
        future = self.executor.submit(batch)
        future.add_done_callback(callback)
        return future

    def retrieve(self, job, out):
        return (job if out is SILENT else out).result()
