"""The loop that feeds somebody else's pool: submit, wait, take in.

Callbacks come from any thread and only enqueue what happened; the thread that runs
the call does everything else, so nothing here needs a lock.
"""

from __future__ import annotations

import time
from queue import Empty, SimpleQueue

from cypar.backends.remote_tasks import Failed, TaskBatch, error_of
from cypar.core._task_queue import END, LATER
from cypar.core.errors import RemoteError, timeout_error

SLICE_S = 0.05  # longest wait between two looks for signals and timeouts


class Flight:
    """One submitted batch."""

    __slots__ = ("batch", "indexes", "job", "since_s")

    def __init__(self, indexes, batch):
        self.indexes = indexes
        self.batch = batch
        self.job = None
        self.since_s = time.monotonic()


class Driver:
    """Runs one call on a pool that is not ours.

    Parameters
    ----------
    call : Call
    submit : callable
        (TaskBatch, callback) -> job; ``callback(out)`` is called when it is done.
    retrieve : callable
        (job, out) -> list of `Done` and `Failed`; raises if the batch failed.
    nested : tuple
        For `TaskBatch`.
    batch_size, completed : callable, optional
        () -> tasks of the next batch; (n_tasks, seconds) -> None.
    is_ready : callable, optional
        job -> whether it is done although no callback came.
    """

    def __init__(
        self,
        call,
        submit,
        retrieve,
        nested,
        batch_size=None,
        completed=None,
        is_ready=None,
    ):
        self.call = call
        self.submit = submit
        self.retrieve = retrieve
        self.nested = nested
        self.batch_size = batch_size
        self.completed = completed
        self.is_ready = is_ready
        self.news = SimpleQueue()
        self.flights = set()

    def run(self):
        """Run the call to its end or its stop."""
        call = self.call
        call.on_wake(self._wake)
        try:
            call.source.fill()
            while not (call.stopping or call.outcomes.done):
                self._submit_all()
                if not (call.stopping or call.outcomes.done):
                    self._wait()
        finally:
            call.off_wake(self._wake)

    def _wake(self):
        self.news.put(None)

    def _submit_all(self):
        call = self.call
        # With a timeout no batch may wait behind another: its start is not known.
        limit = call.options.n_jobs if call.options.timeout_s is not None else None
        while not call.stopping and (limit is None or len(self.flights) < limit):
            size = call.options.batch_size or self._next_size()
            tasks = call.source.draw(size)
            if tasks is LATER or tasks is END:
                return
            indexes = [index for index, _ in tasks]
            flight = Flight(
                indexes, TaskBatch([task for _, task in tasks], self.nested)
            )
            self.flights.add(flight)
            flight.job = self.submit(
                flight.batch, lambda out=None, flight=flight: self._done(flight, out)
            )

    def _next_size(self):
        size = 1 if self.batch_size is None else max(1, int(self.batch_size()))
        self.call.source.set_batch_size(size)
        return size

    def _done(self, flight, out):
        self.news.put((flight, out))

    def _wait(self):
        try:
            news = self.news.get(timeout=SLICE_S)
        except Empty:
            self._look_around()
            return
        if news is not None:
            self._take(*news)

    def _look_around(self):
        """Find batches that failed without a callback, and those that take too long."""
        timeout_s = self.call.options.timeout_s
        now_s = time.monotonic()
        for flight in list(self.flights):
            if self.is_ready is not None and self.is_ready(flight.job):
                self._take(flight, None)
            elif timeout_s is not None and now_s - flight.since_s > timeout_s * len(
                flight.indexes
            ):
                index = flight.indexes[0]
                self.call.outcomes.put_error(index, timeout_error(index, timeout_s))

    def _take(self, flight, out):
        """Hand the results of a batch on; a second callback changes nothing."""
        if flight not in self.flights:
            return
        self.flights.discard(flight)
        outcomes = self.call.outcomes
        try:
            results = self.retrieve(flight.job, out)
            self._check(results, flight)
        except BaseException as exc:
            outcomes.put_error(flight.indexes[0], exc)
            return
        if self.completed is not None:
            self.completed(len(flight.indexes), time.monotonic() - flight.since_s)
        for index, result in zip(flight.indexes, results, strict=True):
            if type(result) is Failed:
                outcomes.put_error(index, error_of(result))
            else:
                outcomes.put(index, result.value)

    def _check(self, results, flight):
        if not isinstance(results, list) or len(results) != len(flight.indexes):
            raise RemoteError(
                f"a backend gave {results!r:.200} for a batch of "
                f"{len(flight.indexes)} tasks, expected the list that the submitted "
                "callable returns"
            )
