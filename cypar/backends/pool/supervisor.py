"""The warm pool: which worker processes exist and which call has them.

States of a worker::

    starting -> ready        it said so; batches may be sent in either state
    idle <-> leased          a call has it; only that call's thread touches it
    dead                     killed or ended; never used again

Guarantees: calls from different threads lease disjoint workers, so that no call can
break or block another; a call can always have at least one; in all there are at most
``max(cpu_count, largest n_jobs) + live calls`` workers. No thread is started.

Thread safety: the lists are guarded by a lock that is never held while waiting.
"""

from __future__ import annotations

import atexit
import os
import threading
import time

from cypar.backends.pool.backoff import Backoff
from cypar.backends.pool.fork_handle import ForkServer, end_server
from cypar.backends.pool.outbox import Outbox
from cypar.backends.pool.process import Process
from cypar.backends.pool.state import bare, snapshot
from cypar.core._segment import Leases
from cypar.core._status_page import above_standard
from cypar.core.cpu import cpu_count
from cypar.transport.copies import disk_arena
from cypar.transport.segments import arena

IDLE_TIMEOUT_S = 300.0  # a worker without work for this long leaves
START_TIMEOUT_S = 60.0  # a worker that is not ready by then is given up


class Worker:
    """One worker process and what it knows.

    Attributes
    ----------
    process : Process
    batches : list
        The batch in each of the two slots, or None.
    functions : dict
        Pickled function -> its id in the worker.
    known : Snapshot
        State of the parent that the worker has followed.
    """

    def __init__(self, life_fd, server, setup=None):
        state = snapshot()
        self.process = Process(life_fd, server)
        self.channel = self.process.channel
        self.page = self.process.page
        self.outbox = Outbox(self.send_number, Leases(self.page))
        self.batches = [None, None]
        self.sequences = [0, 0]
        self.functions = {}
        self.known = server.known if self.process.is_forked else bare(state)
        self.known_call = None  # (nesting level, threads) it has followed
        self.last_function = 0
        self.is_held_up = False  # it runs a long task; nothing is sent behind that
        self.ready = False
        self.setup = setup  # what a new worker calls first, pickled
        self.needs_setup = setup is not None  # it was not told yet
        self.is_set_up = setup is None
        self.index = self.known_index = None  # its number in the call that has it
        self.n_tasks = 0  # sent to it and not taken back
        self.is_spent = False  # it gets no more tasks
        self.next_memory_check = 0.0
        self.idle_since = 0.0
        self.start_deadline = time.monotonic() + START_TIMEOUT_S

    def send_number(self, kind, number, *payload):
        """Send a frame that says no more than a number and its payload."""
        self.channel.send(kind, 0, 0, number, 0.0, *payload)

    def close_mappings(self):
        """Have it unmap what was freed since its last call; between two calls."""
        try:
            self.outbox.end_call()
        except OSError:
            pass  # it is dead, which is found out when it is used

    @property
    def pid(self):
        """Process id; may wait for a worker that is being forked."""
        return self.process.pid

    @property
    def can_run(self):
        """Whether it would begin a task at once."""
        return self.ready and self.is_set_up

    @property
    def n_batches(self):
        """Batches that were sent and not finished."""
        first, second = self.batches
        return (first is not None) + (second is not None)


class Pool:
    """All worker processes of this process."""

    def __init__(self):
        self._lock = threading.Lock()
        self._idle = []  # the most recently used last
        self._leased = {}  # worker -> the call that has it
        self._calls = set()  # that run
        self._limit = cpu_count()  # or the largest n_jobs so far
        self._closed = False  # the interpreter shuts down
        self._waiting = []  # calls that would take more workers
        self.spin = Backoff()
        self._life = None  # (read end, write end) of the pipe that ties workers to us
        self.server = ForkServer()

    # ---- calls ---------------------------------------------------------------------

    def enter(self, call, n_jobs):
        """Note that a call with ``n_jobs`` has begun."""
        with self._lock:
            self._calls.add(call)
            self._limit = max(self._limit, n_jobs)
            old = self._take_old()
            for worker in self._idle:
                worker.close_mappings()
            has_workers = bool(self._idle or self._closed)
        if old:
            self.discard(old)
        if not has_workers:
            self.server.prepare(self._life_fd())  # it starts while the input is read

    def leave(self, call):
        """Note that it has ended; kills what it has not given back.

        It does no harm to say so twice, or of a call that has not begun.
        """
        with self._lock:
            self._calls.discard(call)
            if call in self._waiting:
                self._waiting.remove(call)
            # Ctrl-C can come between a lease and the call's note of it
            kept = [worker for worker, by in self._leased.items() if by is call]
        if kept:
            self.discard(kept)

    def _take_old(self):
        """Take out the workers that have been idle for long: they leave by now."""
        limit = time.monotonic() - IDLE_TIMEOUT_S
        old = []
        while self._idle and self._idle[0].idle_since < limit:
            old.append(self._idle.pop(0))
        return old

    def lease(self, call, setup=None, index=0):
        """Return a worker for a call, or None if there are enough for now.

        Parameters
        ----------
        call : object
            Who asks. With something in its list ``workers`` it can wait for another
            one; its ``wake()`` is called when it pays to ask again.
        setup : bytes or None
            Pickled initializer that the worker must have called.
        index : int
            Number that it gets; one that had it before is preferred.
        """
        if self._closed:
            # A daemon thread in the middle of a call: it ends without a word, as
            # the whole program does.
            raise SystemExit("the interpreter shuts down, no workers are started")
        with self._lock:
            worker = self._take_idle(call, setup, index)
            if worker is not None:
                worker.index = index
                return worker
            surplus = None
            # the first worker of a call is always granted, hence "+ live calls"
            if call.workers and len(self._leased) >= self._limit:
                if call not in self._waiting:
                    self._waiting.append(call)
                return None
            # idle ones here have another initializer
            if self._idle and len(self._leased) + len(self._idle) >= self._limit:
                surplus = self._idle.pop(0)
        if surplus is not None:
            self.discard([surplus])
        worker = Worker(self._life_fd(), self.server, setup)
        try:
            worker.index = index
            with self._lock:
                self._leased[worker] = call
        except BaseException:  # Ctrl-C
            self.discard([worker])
            raise
        return worker

    def _take_idle(self, call, setup, index):
        """Lease an idle worker with this initializer, or return None.

        One that has started comes first: the call before may have lost a worker,
        whose replacement still starts. Then one that knows itself by this index, and
        of several the one that was used last.
        """
        best = None
        for position, worker in enumerate(self._idle):
            if worker.setup == setup:
                rank = (worker.ready, worker.known_index == index, position)
                if best is None or rank > best:
                    best = rank
        if best is None:
            return None
        worker = self._idle[best[-1]]
        self._leased[worker] = call  # first: Ctrl-C must not come while nobody has it
        self._idle.remove(worker)
        return worker

    def _life_fd(self):
        with self._lock:
            if self._life is None:
                self._life = tuple(map(above_standard, os.pipe()))
            return self._life[0]

    def release(self, worker):
        """Give an idle, healthy worker back."""
        with self._lock:
            worker.idle_since = time.monotonic()
            self._idle.append(worker)  # first: see `_take_idle`
            self._leased.pop(worker, None)
            surplus = None
            if len(self._idle) + len(self._leased) > self._limit + len(self._calls):
                surplus = self._idle.pop(0)
            waiting = self._waiting
            if waiting:
                self._waiting = []
        if surplus is not None:
            self.discard([surplus])
        for call in waiting:
            call.wake()

    def discard(self, workers):
        """Kill workers and forget them; their exit codes are then known, if ever."""
        try:
            self._end(workers)
        except BaseException:  # Ctrl-C: what has been done is not done again
            self._end(workers)
            raise

    def _end(self, workers):
        with self._lock:
            for worker in workers:
                self._leased.pop(worker, None)
                if worker in self._idle:
                    self._idle.remove(worker)
        for worker in workers:  # all at once: they die side by side
            worker.process.kill()
        for worker in workers:
            worker.process.close()  # first: to reap takes descriptors
            worker.process.reap()
            worker.outbox.drop()

    # ---- the pool as a whole -------------------------------------------------------

    def shutdown(self):
        """Kill all idle workers; a call that runs keeps its own."""
        with self._lock:
            idle, self._idle = self._idle, []  # no other call leases one of them now
        self.discard(idle)
        ended = None
        with self._lock:
            if not self._calls:
                self._limit = cpu_count()
                # The server's end is that of its workers, and a call that begins
                # from here on must not get one of them.
                if not self._idle:
                    ended = self.server.detach()
        if ended is not None:
            end_server(*ended)
        arena.trim(0)
        disk_arena.trim(0)

    def close_at_exit(self):
        """Kill everything; nothing remains after the interpreter's end."""
        self._closed = True
        with self._lock:
            idle, leased = list(self._idle), list(self._leased)
        for worker in leased:  # another thread holds their descriptors: not closed
            worker.process.kill()
        self.discard(idle)
        for worker in leased:
            worker.process.reap()
        self.server.stop()

    @property
    def is_closed(self):
        """Whether the interpreter shuts down and all workers were killed."""
        return self._closed

    def drop(self):
        """In a forked child: close the descriptors, touch no process."""
        for worker in [*self._idle, *self._leased]:
            worker.process.close()
        self.server.drop()
        if self._life is not None:
            for fd in self._life:
                os.close(fd)
        self.__init__()

    def pids(self):
        """Return the process ids of all workers: (idle, leased)."""
        with self._lock:
            return (
                [worker.pid for worker in self._idle],
                [worker.pid for worker in self._leased],
            )

    def descriptors(self):
        """Return all descriptors that the pool holds open, for leak checks."""
        with self._lock:
            found = set(self._life or ())
            for worker in [*self._idle, *self._leased]:
                found.update(worker.process.descriptors())
        found.update(self.server.descriptors())
        found.update(arena.descriptors(), disk_arena.descriptors())
        return found


pool = Pool()
atexit.register(pool.close_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.drop)
