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
import importlib
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections import deque
from functools import partial
from multiprocessing import util  # its exit handler must be registered before ours

from cypar.backends import multiprocessing_worker as worker
from cypar.backends.multiprocessing_worker import NOTE, SLOT, Shared
from cypar.core import errors
from cypar.core._status_page import MAX_SEQUENCE, StatusPage, process_fd
from cypar.transport import serialize

CLOSE_S = 2.0  # healthy workers may take this long to end by themselves
THREAD_S = 1.0  # the threads of the Pool end at once when their pipes are closed
DEATH_S = 5.0  # after SIGKILL, on a machine that is very busy
NOTE_BYTES = 4096  # read at once


class Ticket:
    """The right to have one batch in flight."""

    __slots__ = ("batches", "in_flight", "number", "page", "sequence")

    def __init__(self, number, page):
        self.number = number
        self.page = page
        self.batches = [None, None]  # by slot, of which one is used
        self.sequence = 0
        self.in_flight = False  # until the Pool has answered

    @property
    def batch(self):
        """The batch as long as tasks of it are open, else None."""
        return self.batches[SLOT]


class _SealedContext:
    """A context that makes a number of processes and no more, and knows them."""

    def __init__(self, context, n):
        self._context = context
        self._left = n
        self.processes = []

    def __getattr__(self, name):
        return getattr(self._context, name)

    def Process(self, *args, **kwargs):  # noqa: N802 (the Pool calls it)
        if self._left == 0:
            # In the thread in which the Pool replaces dead workers: ends it silently.
            raise SystemExit
        self._left -= 1
        process = self._context.Process(*args, **kwargs)
        self.processes.append(process)
        return process


class WorkerPool:
    """The Pool of one call, or of the calls of one with-block.

    Parameters
    ----------
    context : multiprocessing context
    n_jobs : int
    level, n_threads, variables
        For `multiprocessing_worker.initialize`.
    """

    def __init__(self, context, n_jobs, level, n_threads, variables):
        self.completed = deque()  # (ticket, answer of the batch or exception)
        self.ready = set()  # pids of workers that have started
        self.on_ticket = {}  # pid -> number of the ticket it works on
        self.dead = []  # processes that ended by themselves
        self.over = False
        self.wake_fd = self._wake_write = -1
        self._wake_lock = threading.RLock()  # a signal handler may wake, too
        self._pidfds = []
        package = type(context).__module__.rpartition(".")[0] or "multiprocessing"
        # The second batch of a worker hides the time of dispatch.
        n_tickets = 2 * n_jobs if n_jobs <= 100 else n_jobs
        pages = [StatusPage() for _ in range(n_tickets)]
        self.tickets = [Ticket(number, page) for number, page in enumerate(pages)]
        self._notes, notes = context.Pipe(duplex=False)
        life, self._life = context.Pipe(duplex=False)
        shared = Shared(
            pages, notes, life, (self._notes, self._life), package + ".reduction"
        )
        arguments = (shared, level, n_threads, variables, serialize.export_settings())
        self._context = _SealedContext(context, n_jobs)
        try:
            self._pool = self._make_pool(package + ".pool", n_jobs, arguments)
        except BaseException:
            self._notes.close()
            self._life.close()
            raise
        finally:
            shared.parents = ()
            notes.close()
            life.close()
            for page in pages:
                page.close_fd()
        self._watch()
        _live.add(self)

    def _make_pool(self, module, n_jobs, arguments):
        make = importlib.import_module(module).Pool
        # A copy: the Pool keeps its reference as long as its threads run.
        is_fork = self._context.get_start_method() == "fork"
        blocked = is_fork and threading.current_thread() is threading.main_thread()
        if blocked:  # until the forked workers have a handler of their own
            old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _no_fork_warning(is_fork):
                return make(n_jobs, worker.initialize, arguments, context=self._context)
        except OSError as error:
            raise errors.PoolStartError(
                f"cannot start {n_jobs} worker processes: {error}. Use fewer n_jobs, or "
                "raise the limits on processes and open files"
            ) from error
        finally:
            if blocked:
                signal.pthread_sigmask(signal.SIG_SETMASK, old)

    def _watch(self):
        """Get ready to wait for notes, for wake-ups and for the end of processes."""
        self.poll = select.poll()
        self.wake_fd, self._wake_write = os.pipe()
        for fd in (self.wake_fd, self._wake_write, self._notes.fileno()):
            os.set_blocking(fd, False)
        self.poll.register(self.wake_fd, select.POLLIN)
        self.poll.register(self._notes.fileno(), select.POLLIN)
        self._by_fd = {}
        for process in self._context.processes:
            # A sentinel is a pipe, which a process that a task has forked holds open.
            fd = process_fd(process.pid)
            if fd >= 0:
                self._pidfds.append(fd)
                self._by_fd[fd] = process
                self.poll.register(fd, select.POLLIN)
            self._by_fd[process.sentinel] = process
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
        with self._wake_lock:
            if self._wake_write >= 0:
                try:
                    os.write(self._wake_write, b"\0")
                except BlockingIOError:
                    pass  # it is full of wake-ups already

    def wait(self, timeout_ms):
        """Wait for any news; `dead` then holds the workers that have ended."""
        for fd, _ in self.poll.poll(timeout_ms):
            if fd == self.wake_fd:
                os.read(fd, NOTE_BYTES)
            elif fd in self._by_fd:
                process = self._by_fd[fd]
                if process not in self.dead:
                    self.dead.append(process)
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
        if self.over or any(ticket.batch is not None for ticket in self.tickets):
            return False
        self.wait(0)
        return not self.dead

    # ---- the end -------------------------------------------------------------------

    def close(self):
        """Let the workers end by themselves; kill those that do not."""
        if self.over:
            return
        try:
            self._pool.close()
            deadline = time.monotonic() + CLOSE_S
            for process in self._context.processes:
                process.join(max(0.0, deadline - time.monotonic()))
        finally:
            self.kill()

    def kill(self):
        """End all workers by SIGKILL, whatever they do, and leave nothing behind."""
        if self.over:
            return
        self.over = True
        _live.discard(self)
        for process in self._context.processes:
            _kill(process)
        self.exitcodes = {
            process.pid: _exitcode(process) for process in self._context.processes
        }
        self.read_notes()
        self._take_apart()

    def _take_apart(self):
        pool = self._pool
        _dismantle(pool)
        self._life.close()
        self._notes.close()
        for process in self._context.processes:
            try:
                process.close()
            except ValueError:  # it cannot be killed: in the kernel for now
                continue
        for fd in self._pidfds:
            os.close(fd)
        with self._wake_lock:
            os.close(self.wake_fd)
            os.close(self._wake_write)
            self.wake_fd = self._wake_write = -1
        self._pool = None

    def forget(self):
        """In a forked child: let go of the parent's pool without touching it."""
        self.over = True
        pool = self._pool
        pool._state = "TERMINATE"  # its __del__ would write to the parent's pipes
        for queue in (pool._inqueue, pool._outqueue, pool._change_notifier):
            queue._reader.close()
            queue._writer.close()
        self._life.close()
        self._notes.close()
        for fd in (self.wake_fd, self._wake_write, *self._pidfds):
            os.close(fd)
        self.wake_fd = self._wake_write = -1
        self._pidfds = []


def _kill(process):
    """SIGKILL a worker and what its tasks have started, if it is not reaped yet."""
    for kill in (os.killpg, os.kill):
        try:
            kill(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue  # not yet or no longer there


def _exitcode(process):
    """Wait for the end of a killed process and return its exit code, or None."""
    deadline = time.monotonic() + DEATH_S
    while True:
        process.join(0.1)
        if process.exitcode is not None or time.monotonic() > deadline:
            return process.exitcode
        time.sleep(1e-3)  # a thread of the Pool has reaped it and is about to say so


def _dismantle(pool):
    """End the threads of a Pool whose workers are gone, and close its pipes.

    Not ``pool.terminate()``: it waits for locks that a killed worker may have held.
    """
    pool._terminate.cancel()
    pool._state = "TERMINATE"
    threads = (pool._worker_handler, pool._task_handler, pool._result_handler)
    for thread in threads:
        thread._state = "TERMINATE"
    pool._change_notifier.put(None)  # nobody but the Pool's threads uses it
    pool._taskqueue.put(None)
    # The task handler may wait in a write to workers: without readers it fails.
    pool._inqueue._reader.close()
    pool._outqueue._wlock = None  # a killed worker may have held it
    pool._task_handler.join(THREAD_S)
    # The result handler may wait for the rest of a message: the pipe's end wakes it.
    pool._outqueue._writer.close()
    pool._result_handler.join(THREAD_S)
    pool._worker_handler.join(THREAD_S)
    if any(thread.is_alive() for thread in threads):
        return  # another process holds the pipes; daemon threads do not matter
    pool._inqueue._writer.close()
    pool._outqueue._reader.close()
    pool._change_notifier._reader.close()
    pool._change_notifier._writer.close()
    pool._cache.clear()


class _no_fork_warning(warnings.catch_warnings):  # noqa: N801 (used like a function)
    """Ignore what Python 3.12+ says of a fork in a process that has threads.

    Workers need nothing of the other threads, and our parked helpers are gone before
    a fork; threads of BLAS or of the user may be there.
    """

    def __init__(self, is_fork):
        super().__init__()
        self.is_fork = is_fork and sys.version_info >= (3, 12)

    def __enter__(self):
        super().__enter__()
        if self.is_fork:
            warnings.filterwarnings(
                "ignore", ".*use of fork.*deadlocks", DeprecationWarning
            )


# ---- all pools of this process -----------------------------------------------------

_live = set()


def _kill_all():
    for pool in list(_live):
        pool.kill()


def _forget_all():
    """In a forked child, also a worker of another pool: drop what the parent has.

    Otherwise the child would hold open pipes whose end must be seen in the parent.
    """
    for pool in list(_live):
        pool.forget()
    _live.clear()


util.debug("cypar: registering the end of worker pools")
atexit.register(_kill_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
