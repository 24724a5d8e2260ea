"""A `multiprocessing.Pool` whose death is noticed and whose end is certain.

A stock Pool starts a new worker when one dies, forgets the task it ran, and then
hangs in ``terminate()`` if the dead one held a lock of its queues. Here:

- the Pool starts each worker once, in the caller's thread, and none later;
- who calls `wait` sees a worker's end at once, by a descriptor of its process;
- `kill` ends all workers by SIGKILL and takes the Pool apart without its help: its
  threads are woken by closed pipes, its finalizer is cancelled.

Thread safety: one call at a time uses a pool; `wake` and the Pool's callbacks may come
from any thread.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing.util  # noqa: F401 (its exit handler must run after ours)
import os
import select
import signal
import threading
from collections import deque
from functools import partial

from cypar.backends import multiprocessing_stock as stock
from cypar.backends import multiprocessing_worker as worker
from cypar.backends.multiprocessing_ends import GRACE_S, Ends
from cypar.backends.multiprocessing_worker import NOTE, SLOT, Shared
from cypar.backends.wake_up import WakeUp
from cypar.core import errors
from cypar.core._segment import Leases
from cypar.core._status_page import MAX_SEQUENCE, StatusPage
from cypar.core.import_gate import no_half_imports
from cypar.core.late_import import late_import
from cypar.transport import serialize

CLOSE_S = 2.0  # healthy workers may take this long to end by themselves
DEATH_S = 5.0  # after SIGKILL, on a machine that is very busy
NOTE_BYTES = 4096  # read at once
# What a Pool has open, what each process leaves open and what its start takes.
POOL_DESCRIPTORS = 6 + 4
PROCESS_DESCRIPTORS = 2


class Ticket:
    """The right to have one batch in flight."""

    __slots__ = ("batches", "in_flight", "leases", "number", "page", "sequence")

    def __init__(self, number, page):
        self.number = number
        self.page = page
        self.leases = Leases(page)  # of whichever worker runs the batch
        self.batches = [None, None]  # by slot, of which one is used
        self.sequence = 0
        self.in_flight = False  # until the Pool has answered

    @property
    def batch(self):
        """The batch as long as tasks of it are open, else None."""
        return self.batches[SLOT]


class WorkerPool:
    """The Pool of one call, or of the calls of one with-block; made by `start`.

    Parameters
    ----------
    context : multiprocessing context
    n_jobs : int
    """

    def __init__(self, context, n_jobs):
        self.completed = deque()  # (ticket, answer of the batch or exception)
        self.ready = set()  # pids of workers that have started
        self.on_ticket = {}  # pid -> number of the ticket it works on
        self.dead = []  # pids of workers that ended by themselves, or are cut off
        self.cut_off = set()  # those that have closed their pipe, but ran on
        self.exitcodes = {}  # by pid, of those that ended by themselves, once asked for
        self.over = False
        self.is_leaving = False  # a call hands out nothing more to it
        self.n_jobs = n_jobs
        self.tickets = []
        self.poll = select.poll()
        self._context = stock.SealedContext(context, n_jobs)
        self._package = type(context).__module__.rpartition(".")[0]
        self._pool = None
        self._connections = []  # the parent's ends of pipes
        self._by_fd = {}  # what is watched -> pid
        # A fork server says when a process has ended, but may take its time.
        is_late = context.get_start_method() == "forkserver"
        self._ends = Ends(DEATH_S if is_late else GRACE_S)
        self._killed = set()  # pids of workers that ran until then
        self._wake_up = WakeUp()
        self._ending = threading.RLock()  # a signal handler may end it, too

    def start(self, level, n_threads, variables):
        """Start the workers; arguments as of `multiprocessing_worker.initialize`."""
        # The second batch of a worker hides the time of dispatch.
        n_tickets = 2 * self.n_jobs if self.n_jobs <= 100 else self.n_jobs
        pages = [StatusPage() for _ in range(n_tickets)]
        self.tickets = [Ticket(number, page) for number, page in enumerate(pages)]
        self._notes, notes = self._context.Pipe(duplex=False)
        life, end_of_life = self._context.Pipe(duplex=False)
        self._connections += (self._notes, end_of_life)
        reduction = self._package + ".reduction"
        shared = Shared(pages, notes, life, tuple(self._connections), reduction)
        try:
            self._make_pool(
                (shared, level, n_threads, variables, serialize.export_settings())
            )
        finally:
            shared.parents = ()
            notes.close()
            life.close()
            for page in pages:
                page.close_fd()
        self._watch()

    def _make_pool(self, arguments):
        make = late_import(self._package + ".pool", "Pool")
        method = self._context.get_start_method()
        # No Ctrl-C until the workers have a handler of their own. A fork server would
        # keep the mask for all its children.
        blocked = method != "forkserver" and hasattr(signal, "pthread_sigmask")
        if blocked:
            old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        warning = stock.no_fork_warning if method == "fork" else contextlib.nullcontext
        try:
            n_descriptors = POOL_DESCRIPTORS + PROCESS_DESCRIPTORS * self.n_jobs
            stock.require_descriptors(n_descriptors, self._notes.fileno())
            with warning(), no_half_imports():
                self._pool = make(
                    self.n_jobs, worker.initialize, arguments, context=self._context
                )
                stock.cancel_finalizer(self._pool)
        except OSError as error:
            raise errors.PoolStartError(
                f"cannot start {self.n_jobs} worker processes: {error}. Use fewer "
                "n_jobs, or raise the limits on processes and open files"
            ) from error
        finally:
            if blocked:
                signal.pthread_sigmask(signal.SIG_SETMASK, old)

    def _watch(self):
        """Get ready to wait for notes, for wake-ups and for the end of processes."""
        os.set_blocking(self._notes.fileno(), False)
        self.poll.register(self._wake_up.fd, select.POLLIN)
        self.poll.register(self._notes.fileno(), select.POLLIN)
        for process in self._context.processes:
            stock.guard_exitcode(process)
            # A sentinel is a pipe, which a process that a task has forked holds open.
            fd = self._ends.watch(process)
            if fd >= 0:
                self._by_fd[fd] = process.pid
                self.poll.register(fd, select.POLLIN)
            self._by_fd[process.sentinel] = process.pid
            self.poll.register(process.sentinel, select.POLLIN)

    # ---- work ----------------------------------------------------------------------

    def pids(self):
        """Return the process ids of the workers."""
        return [process.pid for process in self._context.processes]

    def free_ticket(self):
        """Return a ticket that is not in flight, or None."""
        for ticket in self.tickets:
            if not ticket.in_flight:
                return ticket
        return None

    def submit(self, ticket, batch, payload):
        """Hand a batch to the Pool; its answer comes to `completed`."""
        ticket.sequence = (ticket.sequence + 1) & MAX_SEQUENCE
        ticket.batches[SLOT] = batch
        ticket.in_flight = True
        ticket.page.publish(SLOT, ticket.sequence, batch.n)
        answered = partial(self._answered, ticket)
        self._pool.apply_async(
            worker.run_batch,
            (ticket.number, ticket.sequence, payload),
            callback=answered,
            error_callback=answered,
        )

    def _answered(self, ticket, answer):
        # In a thread of the Pool: nothing of the user's is loaded or called here.
        self.completed.append((ticket, answer))
        self.wake()

    def wake(self):
        """End the current `wait`, or else the next one."""
        self._wake_up.ring()

    def wait(self, timeout_ms):
        """Wait for any news; `dead` then holds the workers that have ended."""
        events = self.poll.poll(timeout_ms)
        if is_closed:  # a daemon thread, whose descriptors are gone
            raise SystemExit("the interpreter shuts down, the workers were killed")
        for fd, _ in events:
            if fd == self._wake_up.fd:
                self._wake_up.clear()
            elif fd in self._by_fd:
                self.poll.unregister(fd)  # it would end all waits from now on
                if self._by_fd[fd] not in self.dead:
                    self.dead.append(self._by_fd[fd])
        self.read_notes()

    def read_notes(self):
        """Take in which worker works on which ticket."""
        # notes are written at once and NOTE.size divides what is read
        size = NOTE_BYTES - NOTE_BYTES % NOTE.size
        while True:
            try:
                data = os.read(self._notes.fileno(), size)
            except BlockingIOError:
                return
            for pid, number in NOTE.iter_unpack(data):
                if number != worker.NEWS:
                    self.ready.add(pid)
                    self.on_ticket[pid] = number
            if len(data) < size:
                return

    def is_usable(self):
        """Whether all workers live and none runs tasks of a call that is over."""
        if (
            self.over
            or self.is_leaving
            or any(ticket.batch is not None for ticket in self.tickets)
        ):
            return False
        self.wait(0)
        return not self.dead

    def exitcode_of(self, pid):
        """Return the exit code of a worker that has ended by itself, or None.

        None also if it is cut off, in which case it is killed: what it runs may take
        as long as it likes.
        """
        if pid not in self.exitcodes and not self.over:
            process = self._process(pid)
            if self._ends.is_cut_off(process):
                self.cut_off.add(pid)
                self._kill([process])
            self._note_exitcodes([process])
        return self.exitcodes.get(pid)

    def kill_worker(self, pid):
        """Kill one worker; the Pool is to be left then."""
        self._kill([self._process(pid)])

    def _kill(self, processes):
        """SIGKILL workers and the processes that their tasks have started."""
        for process in processes:
            if self._ends.kill(process):
                self._killed.add(process.pid)

    def _note_exitcodes(self, processes):
        """Wait for the end of workers; only those not killed here have exit codes."""
        codes = self._ends.exitcodes(processes, DEATH_S)
        for pid, code in codes.items():
            if pid not in self._killed or code not in (None, -signal.SIGKILL):
                self.exitcodes[pid] = code
                self.cut_off.discard(pid)  # it was about to end

    def _process(self, pid):
        return next(p for p in self._context.processes if p.pid == pid)

    # ---- the end -------------------------------------------------------------------

    def close(self):
        """Let the workers end by themselves; kill those that do not."""
        if self.over:
            return
        try:
            if self._pool is not None:  # an earlier end has been interrupted
                self._pool.close()
            self._ends.wait(self._context.processes, CLOSE_S)
        finally:
            self.kill()

    def kill(self):
        """End all workers by SIGKILL, whatever they do, and leave nothing behind.

        Who comes second waits: after the handler at the interpreter's end, Python's
        own one would meet a Pool that is half taken apart. Ctrl-C is put off; if the
        handler of another signal raises, who comes next ends what is left.
        """
        with self._ending, stock.no_interrupt():
            if self.over:
                return
            self.over = True
            try:
                self._end()
            except BaseException:
                self.over = False
                raise
            _live.discard(self)

    def _end(self):
        """End it; can be begun again after an exception."""
        processes = self._context.processes
        started = [process for process in processes if process.pid]
        self._kill(started)
        self._note_exitcodes(started)
        if self._pool is not None:
            self.read_notes()
            stock.dismantle(self._pool, self._context.taken_apart)
            self._pool = None
        # The start of a process looks at all others, and must not find one half closed.
        with _starting:
            for process in started:
                with contextlib.suppress(ValueError):  # in the kernel for now
                    process.close()
                processes.remove(process)
        self._close_descriptors()
        for ticket in self.tickets:
            ticket.leases.drop()

    def _close_descriptors(self):
        for connection in self._connections:
            connection.close()
        self._wake_up.close()
        self._ends.close()

    def forget(self):
        """In a forked child: let go of the parent's pool without touching it."""
        self._ending = threading.RLock()  # the parent may hold the old one
        if self.over:
            return  # another thread ends it: which descriptors are closed is unknown
        self.over = True
        self._wake_up.drop()
        if self._pool is not None:
            stock.forget(self._pool)
        for process in self._context.processes:
            stock.unguard_exitcode(process)
        self._close_descriptors()


# ---- all pools of this process -----------------------------------------------------

_live = set()
is_closed = False  # the interpreter shuts down
# Workers of one pool must not inherit the pipes of another that is half made, and
# filters of warnings are not per thread.
_starting = threading.RLock()


def start(context, n_jobs, level, n_threads, variables):
    """Return a new `WorkerPool` with running workers.

    Who calls it under `no_interrupt` cannot lose the pool to a Ctrl-C.
    """
    with no_interrupt():
        pool = WorkerPool(context, n_jobs)
        try:
            pool.start(level, n_threads, variables)
        except BaseException:
            pool.kill()
            raise
        _live.add(pool)
        return pool


@contextlib.contextmanager
def no_interrupt():
    """Put off Ctrl-C until a pool is started, and known to who must end it."""
    with _starting, stock.no_interrupt():  # to wait for others can be interrupted
        yield


def _kill_all():
    global is_closed
    is_closed = True
    with stock.no_interrupt():
        for pool in list(_live):
            pool.kill()


def _forget_all():
    """In a forked child, also a worker of another pool: drop what the parent has.

    Otherwise the child would hold open pipes whose end must be seen in the parent.
    """
    global _starting
    for pool in list(_live):
        pool.forget()
    _live.clear()
    _starting = threading.RLock()  # the parent may hold the old one


atexit.register(_kill_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
