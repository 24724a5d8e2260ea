"""The loop that feeds somebody else's pool: submit, wait, take in.

Callbacks come from any thread and only enqueue what happened; the thread that runs
the call does everything else. So nothing here needs a lock, and it does no harm if a
callback comes twice, before `submit` returns, or after the call.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import BrokenExecutor
from queue import Empty, SimpleQueue

from cypar.backends.remote_tasks import Failed, TaskBatch
from cypar.core._task_queue import END, LATER
from cypar.core.errors import CyparError, WorkerCrash, timeout_error
from cypar.core.traceback_text import describe_task

SLICE_S = 0.05  # longest wait between two looks for timeouts and silent jobs


class Port:
    """What `Driver` needs of somebody else's pool.

    Attributes
    ----------
    nested, context
        For `TaskBatch`.
    slots : int or None
        Batches that run at once, if that is known.
    """

    nested = None
    context = None
    slots = None

    def submit(self, batch, callback):
        """Start a batch; returns a job. ``callback(out)`` is called when it is done."""
        raise NotImplementedError

    def retrieve(self, job, out):
        """Return the list of results of a batch that is done, or raise its error.

        Parameters
        ----------
        job : object
            What `submit` returned.
        out : object
            What the callback got; `SILENT` if it was not called.
        """
        raise NotImplementedError

    def is_done(self, job):
        """Whether a job is done without a callback; None if only waiting tells."""
        return False

    def next_size(self):
        """Return the number of tasks for the next batch, if the user leaves it open."""
        return 1

    def completed(self, n_tasks, seconds):
        """Learn from a batch that is done."""


class _Silent:
    __slots__ = ()

    def __repr__(self):
        return "<no callback>"


SILENT = _Silent()  # instead of a callback's argument


class Flight:
    """One batch on its way; called when it is done."""

    __slots__ = ("first", "indexes", "is_late", "job", "news", "since_s")

    def __init__(self, indexes, news, first):
        self.indexes = indexes
        self.news = news
        self.first = first  # task of the first index, to be named if it is late
        self.is_late = False
        self.job = None
        self.since_s = time.monotonic()

    def __call__(self, out=None):
        self.news.put((self, out))


class Driver:
    """Runs one call on a pool that is not ours.

    Parameters
    ----------
    call : Call
    port : Port
    """

    def __init__(self, call, port):
        self.call = call
        self.port = port
        self.news = SimpleQueue()
        self.flights = {}  # in the order of their start; the values do not matter
        self.getter = None  # thread that waits for a job which cannot be asked
        n = call.options.n_jobs
        self.slots = min(n, port.slots or n)

    def run(self):
        """Run the call to its end or its stop."""
        call = self.call
        call.on_wake(self._wake)
        try:
            call.source.fill()
            while not self._is_over():
                while self._submit_one():
                    self._take_all()
                if not self._is_over():
                    self._wait()
                self._take_all()
        finally:
            call.off_wake(self._wake)

    def _is_over(self):
        return bool(self.call.stopping) or self.call.outcomes.done

    def _wake(self):
        self.news.put(None)

    # ---- handing out ---------------------------------------------------------------

    def _submit_one(self):
        """Submit one batch; False if there is none, or no room for it."""
        call = self.call
        if self._is_over():
            return False
        # With a timeout no batch may wait for another: its start would not be known.
        timed = call.options.timeout_s is not None
        if timed and len(self.flights) >= self.slots:
            return False
        size = call.options.batch_size or self._next_size()
        tasks = call.source.draw(1 if timed else size)
        if tasks is LATER or tasks is END:
            return False
        port = self.port
        indexes = [index for index, _ in tasks]
        batch = TaskBatch([t for _, t in tasks], indexes, port.nested, port.context)
        flight = Flight(indexes, self.news, tasks[0][1])
        self.flights[flight] = None
        try:
            flight.job = port.submit(batch, flight)
        except BaseException as exc:
            self._take_all()  # the reason may be among the news
            if call.stopping:
                return False
            if not isinstance(exc, BrokenExecutor):
                raise
            raise self._crash(exc) from exc
        return True

    def _next_size(self):
        size = max(1, int(self.port.next_size()))
        if self.call.wants_single_tasks():
            size = 1
        self.call.source.set_batch_size(size)
        return size

    # ---- waiting -------------------------------------------------------------------

    def _wait(self):
        try:
            news = self.news.get(timeout=SLICE_S)
        except Empty:
            self._find_silent()
        else:
            if news is not None:
                self._take(*news)
        if self.call.options.timeout_s is not None:
            self._find_overdue()

    def _find_silent(self):
        """Find jobs that are done and whose callback did not come, as after errors."""
        for flight in list(self.flights):
            done = self.port.is_done(flight.job)
            if done:
                self._take(flight, SILENT)
            elif done is None and (self.getter is None or not self.getter.is_alive()):
                self.getter = threading.Thread(
                    target=_get, args=(flight, self.port), daemon=True, name="cypar-get"
                )
                self.getter.start()

    def _find_overdue(self):
        timeout_s = self.call.options.timeout_s
        now_s = time.monotonic()
        for flight in self.flights:
            index = flight.indexes[0]
            if now_s - flight.since_s <= timeout_s or flight.is_late:
                continue
            # It keeps its slot until it returns: nobody else's worker can be stopped.
            flight.is_late = True
            error = timeout_error(index, timeout_s)
            described = _describe(flight.first)
            self.call.outcomes.put_error(index, error, "timeout", *described)

    # ---- taking in -----------------------------------------------------------------

    def _take_all(self):
        """Take in what has come so far."""
        while not self.news.empty():
            news = self.news.get()
            if news is not None:
                self._take(*news)

    def _take(self, flight, out):
        """Hand on what became of a batch, once."""
        if flight not in self.flights:
            return
        try:
            if type(out) is _Got:
                results = out.unpack()
            else:
                results = self.port.retrieve(flight.job, out)
            self._check(results, flight)
        except BaseException as exc:
            self._fail(flight, exc)
            return
        del self.flights[flight]
        flight.job = None
        outcomes = self.call.outcomes
        for index, result in zip(flight.indexes, results, strict=True):
            if type(result) is Failed:
                outcomes.put_error(index, result.error(index))
            else:
                outcomes.put(index, result)
        self.port.completed(len(results), time.monotonic() - flight.since_s)

    def _check(self, results, flight):
        expected = len(flight.indexes)
        if not isinstance(results, (list, tuple)) or len(results) != expected:
            raise CyparError(
                f"a backend gave {results!r:.200} of type {type(results).__name__} for "
                f"a batch of {expected} tasks: expected the list of {expected} results "
                "that the submitted callable returns"
            )

    def _fail(self, flight, exc):
        kind = "exception"
        if isinstance(exc, BrokenExecutor):
            kind = "crash"
            cause, exc = exc, self._crash(exc)
            exc.__cause__ = cause
        del self.flights[flight]
        flight.job = None
        for index in reversed(flight.indexes):  # it knows the first one in the end
            self.call.outcomes.put_error(index, exc, kind)

    def _crash(self, exc):
        """Return an error that tells which tasks a broken executor may have lost."""
        indexes = sorted(i for flight in self.flights for i in flight.indexes)
        return WorkerCrash(
            f"the executor lost a worker process while it had {_named(indexes)} of "
            f"this call ({type(exc).__name__}: {exc}): it is broken, make a new one. "
            "backend='processes' goes on after such a loss",
            task_index=indexes[0] if indexes else None,
        )


def _describe(task):
    """Return (name of the function, text of the arguments) of a task."""
    if type(task) is bytes:  # it was pickled when it was drawn
        return None, None
    return describe_task(*task)


def _named(indexes):
    if len(indexes) == 1:
        return f"task {indexes[0]}"
    shown = ", ".join(map(str, indexes[:20])) + (", ..." if len(indexes) > 20 else "")
    return f"the tasks {shown}" if indexes else "no task"


class _Got:
    """What a job gave to the thread that waited for it."""

    def __init__(self, results, error):
        self.results = results
        self.error = error

    def unpack(self):
        if self.error is not None:
            raise self.error
        return self.results


def _get(flight, port):
    """Wait for one job, and report like its callback."""
    try:
        got = _Got(port.retrieve(flight.job, SILENT), None)
    except BaseException as exc:
        got = _Got(None, exc)
    flight(got)
