"""Run one call on leased worker processes: draw, send, read, until all is done.

::

    draw (serialised at once) -> a free slot of a worker -> socket
    poll: a worker has news   -> result log and socket   -> outcomes
    an idle worker and nothing to draw: take unclaimed tasks back from a busy one

One thread owns a call's workers: the caller in list mode, a pump thread otherwise.
Every wait is a descriptor or a deadline. At most two batches are in flight per
worker (the second hides the time of dispatch), and never more tasks than the window.
"""

from __future__ import annotations

import os
import select
import sys
import time
from _pickle import dumps as plain_dumps  # `pickle` costs 5 ms to import

from cypar.backends.pool import frames
from cypar.backends.pool.backoff import SPIN_NS
from cypar.backends.pool.readings import Reader
from cypar.backends.pool.state import difference, snapshot
from cypar.core import errors
from cypar.core._batch import Batch
from cypar.core._batch_estimator import BatchEstimator
from cypar.core._status_page import (
    MAX_BATCH,
    MAX_SEQUENCE,
    listen,
    spin_for_news,
    stop_listening,
)
from cypar.core._task_queue import END, LATER
from cypar.transport._capture import columns_of, table_of

_ONE = (1).to_bytes(8, sys.byteorder)  # what an eventfd takes
DEPTH = 2  # batches in flight per worker
MAX_BATCH_BYTES = 1 << 17  # fits into a socket's usual buffer of 208 kB
MAX_RESULT_BYTES = 1 << 21  # of one batch: what nobody has read yet is bounded
MAX_FUNCTIONS = 256  # functions a worker keeps
# Taking tasks back pays if they last longer than about two dispatches.
MIN_STEAL_S = 150e-6
STEAL_RETRY_S = 2e-3  # a task that has run this long holds up what is behind it
LONG_S = 20e-3  # a task that runs longer than this and than ten usual ones is long
LONG_FACTOR = 10
SOCKET_EVERY = 16  # turns of the loop that look at result logs only, at most
GRACE_S = 0.02  # a stopped call waits this long for tasks that are nearly done
MAX_START_FAILURES = 3


class Dispatcher:
    """Drives one call; see the top of this file."""

    def __init__(self, call, pool, call_state, functions, memory):
        self.call = call
        self.pool = pool
        self.call_state = call_state  # (nesting level, threads, variables)
        self.functions = functions
        self.memory = memory
        self.replacements = {}  # blob by name -> reference by value
        self.options = call.options
        self.estimator = BatchEstimator()
        self.workers = []
        self.by_fd = {}
        self.poll = select.poll()
        self.reader = Reader(self)
        self.woken = False
        self.waiting = False
        self.turns = 0
        self.exhausted = False  # the last draw gave nothing
        self.task_bytes = 1.0  # smoothed size of one task on the socket
        self.result_bytes = 1.0  # the same of the results that come over it
        self.start_failures = 0
        self.max_start_failures = MAX_START_FAILURES
        self.max_workers = self.options.n_jobs
        self.batch_size = min(max(1, self.options.batch_size), MAX_BATCH)
        self.wake_fd, self._wake_write = _wake_pipe()
        self.poll.register(self.wake_fd, select.POLLIN)

    # ---- the loop ----------------------------------------------------------------

    def run(self):
        """Run the call; returns when it is done or stopped."""
        call = self.call
        call.on_wake(self.wake)
        self.pool.enter(self.options.n_jobs)
        try:
            call.source.fill()
            while not (call.stopping or call.outcomes.done):
                self.woken = False
                self.dispatch()
                if call.stopping or call.outcomes.done:
                    break
                self.wait_and_read(self.timeout())
            self.settle()
        finally:
            call.off_wake(self.wake)
            self.memory.close()
            self.let_go()
            self.pool.leave(self.wake)
            os.close(self.wake_fd)
            if self._wake_write != self.wake_fd:
                os.close(self._wake_write)

    def wake(self):
        """Let the loop look again; from any thread."""
        self.woken = True
        if self.waiting:
            try:
                os.write(self._wake_write, _ONE)
            except BlockingIOError:
                pass  # it is full of wake-ups already

    def dispatch(self):
        """Send batches while there are tasks and room for them."""
        self.take_back_behind_long_tasks()
        while not self.call.stopping:
            worker = self.free_worker()
            if worker is None:
                return
            tasks = self.call.source.draw(self.batch_size)
            if tasks is LATER or tasks is END:
                self.exhausted = True
                for idle in list(self.workers):
                    if idle.n_batches == 0:
                        self.rebalance(idle)
                return
            self.exhausted = False
            self.send(worker, tasks, snapshot())  # the iterator may have changed it

    def free_worker(self):
        """Return the worker to send the next batch to, or None."""
        best, load = None, DEPTH
        for worker in self.workers:
            n = worker.n_batches
            if n < load and not worker.is_held_up:
                best, load = worker, n
                if n == 0:
                    return best
        # another worker is better than a second batch in flight
        if len(self.workers) < self.max_workers and self.has_task():
            added = self.add_worker()
            if added is not None:
                return added
        return best

    def take_back_behind_long_tasks(self):
        """Make pending again what waits behind a task that runs for long.

        An idle worker would take it over, but while the input goes on none is idle.
        """
        limit_s = max(LONG_S, LONG_FACTOR * self.estimator.task_seconds)
        for worker in self.workers:
            worker.is_held_up = False
            if not worker.n_batches or worker.page.running_ns() * 1e-9 < limit_s:
                continue
            worker.is_held_up = True
            for slot in (0, 1):
                if worker.batches[slot] is not None and worker.page.unclaimed(slot):
                    tasks = self.recall(worker, slot, 0)
                    if tasks:
                        self.call.source.give_back(tasks)

    def has_task(self):
        """Make sure that a task waits before a worker is started for it."""
        source = self.call.source
        if not source.pending:
            source.fill()
        return source.has_task()

    def add_worker(self):
        try:
            worker = self.pool.lease(bool(self.workers), self.wake)
        except (OSError, errors.PoolStartError):
            if not self.workers:
                raise
            self.max_workers = len(self.workers)  # no descriptors, say: go on so
            return None
        if worker is None:
            return None
        self.workers.append(worker)
        process = worker.process
        self.by_fd[process.channel.fd] = worker
        self.poll.register(process.channel.fd, select.POLLIN)
        if process.process_fd >= 0:
            self.by_fd[process.process_fd] = worker
            self.poll.register(process.process_fd, select.POLLIN)
        return worker

    # ---- sending -------------------------------------------------------------------

    def send(self, worker, tasks, state):
        """Send one batch; the worker is known to have a free slot."""
        slot = 0 if worker.batches[0] is None else 1
        sequence = (worker.sequences[slot] + 1) & MAX_SEQUENCE
        worker.sequences[slot] = sequence
        worker.batches[slot] = Batch(tasks)
        channel = worker.channel
        try:
            if len(worker.functions) >= MAX_FUNCTIONS:
                channel.send(frames.FORGET)
                worker.functions.clear()
            if worker.known is not state or worker.known_call != self.call_state:
                self.send_state(worker, state)
            columns = columns_of(tasks)
            if columns is not None:
                payload = plain_dumps(columns, 5)
                self.note_bytes(len(payload), len(tasks))
                number = self.function_id(worker, tasks[0][1][0])
                worker.page.publish(slot, sequence, len(tasks))
                channel.send(frames.COLUMNS, slot, sequence, number, 0.0, payload)
            else:
                parts = table_of(
                    tasks, lambda ref: self.function_id(worker, ref), worker.outbox
                )
                self.note_bytes(sum(map(len, parts)), len(tasks))
                worker.page.publish(slot, sequence, len(tasks))
                channel.send(frames.TASKS, slot, sequence, len(tasks), 0.0, *parts)
                worker.outbox.finish_message()
        except BrokenPipeError:
            worker.page.publish(slot, sequence, 0)
            self.lost(worker)
            return
        worker.page.ring()
        if channel.outgoing_bytes:
            self.poll.modify(channel.fd, select.POLLIN | select.POLLOUT)

    def send_state(self, worker, state):
        changes = difference(worker.known, state)
        if worker.known_call != self.call_state:
            level, threads, variables = self.call_state
            changes["level"] = level
            changes["threads"] = (threads, variables)
        worker.channel.send(frames.STATE, 0, 0, 0, 0.0, plain_dumps(changes, 5))
        worker.known = state
        worker.known_call = self.call_state

    def function_id(self, worker, reference):
        """Return the worker's id of a function; sends the function if it is new."""
        blob = reference.blob
        if self.replacements and blob in self.replacements:
            reference = self.replacements[blob]
            blob = reference.blob
        number = worker.functions.get(blob)
        if number is None:
            worker.last_function += 1
            number = worker.functions[blob] = worker.last_function
            worker.channel.send(
                frames.FUNCTION, 0, int(reference.mutable), number, 0.0, blob
            )
        return number

    def send_by_value(self, reference, module):
        """Send a function by value: the file of its module is not what was loaded."""
        self.functions.distrust(module)
        function = reference.source and reference.source()
        if function is None:
            raise RuntimeError(
                f"the file of module {module!r} was edited after it was imported here, "
                f"and {reference.name} needs it: reload the module, or start again"
            )
        self.replacements[reference.blob] = self.functions.encode(function)

    # ---- balance -------------------------------------------------------------------

    def rebalance(self, idle):
        """Give an idle worker half of the unclaimed tasks of the fullest worker."""
        victim, slot, most = None, 0, 0
        for worker in self.workers:
            for candidate in (0, 1):
                if worker.batches[candidate] is None:
                    continue
                n = worker.page.unclaimed(candidate)
                if n > most:
                    victim, slot, most = worker, candidate, n
        if victim is None or victim is idle or not idle.ready:
            return
        running_s = victim.page.running_ns() * 1e-9
        stuck = not victim.ready or running_s > STEAL_RETRY_S
        # One that runs nothing is about to receive the batch: two workers could take
        # a large task from each other without end.
        if not stuck and (
            not running_s or most * self.estimator.task_seconds < MIN_STEAL_S
        ):
            return
        # A task that holds up the others: take all; else share evenly.
        keep = 0 if stuck and most == 1 else most // 2
        tasks = self.recall(victim, slot, keep)
        if tasks:
            self.send(idle, tasks, snapshot())

    def recall(self, worker, slot, keep):
        """Take unclaimed tasks of one slot back; returns them."""
        batch = worker.batches[slot]
        first, end = worker.page.recall(slot, keep)
        if first == end:
            return []
        taken = batch.take_back(first, end)
        if batch.left == 0:
            worker.batches[slot] = None
        return taken

    # ---- waiting -------------------------------------------------------------------

    def timeout(self):
        """Return how long to wait for news, in ms; None for as long as it takes."""
        waits = []
        if self.exhausted and self.could_rebalance():
            waits.append(STEAL_RETRY_S)
        if self.options.timeout_s is not None:
            for worker in self.workers:
                running = worker.page.running_ns() * 1e-9
                if worker.n_batches:
                    waits.append(max(0.0, self.options.timeout_s - running) + 1e-3)
        for worker in self.workers:
            if not worker.ready:
                waits.append(max(0.0, worker.start_deadline - time.monotonic()) + 1e-3)
        return min(waits) * 1e3 if waits else None

    def could_rebalance(self):
        """Whether a worker is idle while another has tasks that it has not claimed."""
        idle = waiting = False
        for worker in self.workers:
            for slot in (0, 1):
                if worker.batches[slot] is not None and worker.page.unclaimed(slot):
                    waiting = True
            idle = idle or worker.n_batches == 0
        return idle and waiting

    def wait_and_read(self, timeout_ms):
        """Wait for news and take it all in."""
        pages = [worker.page for worker in self.workers if worker.n_batches]
        if self.pool.spin.due():
            news = spin_for_news(pages, SPIN_NS)
            self.pool.spin.note(news)
        else:
            news = spin_for_news(pages, 0)
        if news and not self.socket_due():
            for worker in list(self.workers):
                if worker.n_batches:
                    self.reader.read_log(worker)
            self.check_deadlines()
            return
        self.waiting = True
        try:
            news = listen(pages) or self.woken
            events = self.poll.poll(0 if news else timeout_ms)
        finally:
            self.waiting = False
            stop_listening(pages)
        if news:
            for worker in list(self.workers):
                self.reader.read_log(worker)
        for fd, event in events:
            if fd == self.wake_fd:
                os.read(fd, 4096)
                continue
            worker = self.by_fd.get(fd)
            if worker is None:
                continue  # lost while the events before were handled
            if event & select.POLLOUT:
                self.flush(worker)
                if worker not in self.workers:
                    continue  # it took no more: its end has been handled
            if fd == worker.process.process_fd or event & ~select.POLLOUT:
                self.reader.read(worker, ended=fd == worker.process.process_fd)
        self.check_deadlines()

    def socket_due(self):
        """Whether to look at the sockets although the logs have news: now and then."""
        self.turns += 1
        return self.turns % SOCKET_EVERY == 0 or any(
            not worker.ready for worker in self.workers
        )

    def flush(self, worker):
        try:
            if worker.channel.send_queued():
                self.poll.modify(worker.channel.fd, select.POLLIN)
        except BrokenPipeError:
            self.reader.read(worker, ended=True)

    def check_deadlines(self):
        timeout_s = self.options.timeout_s
        for worker in list(self.workers):
            if not worker.ready and time.monotonic() > worker.start_deadline:
                self.reader.lost_at_start(worker)
            if timeout_s is not None and worker.page.running_ns() > timeout_s * 1e9:
                self.reader.read(worker, ended=False)  # it may have just finished
                if worker in self.workers:
                    self.reader.timed_out(worker, timeout_s)

    def note_bytes(self, size, n_tasks):
        """Learn how large tasks are, so that no batch gets longer than the socket."""
        mean = size / n_tasks
        self.task_bytes = max(mean, 0.5 * (self.task_bytes + mean))

    def note_result_bytes(self, size):
        """Learn how large results are that do not fit into the log."""
        self.result_bytes = max(size, 0.5 * (self.result_bytes + size))

    def observe(self, batch):
        """Learn from a finished batch how large the next ones should be."""
        if self.options.batch_size or not batch.n:
            return
        size = self.estimator.observe(batch.n, batch.seconds)
        size = min(size, max(1, int(MAX_BATCH_BYTES / self.task_bytes)))
        size = min(size, max(1, int(MAX_RESULT_BYTES / self.result_bytes)))
        if self.options.explicit_pre_dispatch and (
            self.call.outcomes.finished < 4 * self.options.pre_dispatch
        ):
            return  # the caller wants to see single tasks first
        if size != self.batch_size:
            self.batch_size = size
            self.call.source.set_batch_size(size)

    # ---- ends ----------------------------------------------------------------------

    def settle(self):
        """Stop what still runs: take back, wait a moment, then kill."""
        deadline = time.monotonic() + GRACE_S
        for worker in list(self.workers):
            for slot in (0, 1):
                if worker.batches[slot] is not None:
                    self.recall(worker, slot, 0)
        while any(worker.n_batches for worker in self.workers):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self.wait_and_read(left * 1e3)

    def forget(self, worker):
        """Take a worker out of this call."""
        self.workers.remove(worker)
        for fd in (worker.channel.fd, worker.process.process_fd):
            if self.by_fd.pop(fd, None) is not None:
                self.poll.unregister(fd)

    def lost(self, worker):
        """Handle a worker that does not take data any more."""
        self.reader.read(worker, ended=True)

    def let_go(self):
        """Give the workers back to the pool, and kill those that are not idle."""
        busy = []
        for worker in list(self.workers):
            self.forget(worker)
            if worker.n_batches or worker.channel.outgoing_bytes:
                busy.append(worker)
            elif _ended_call(worker):
                self.pool.release(worker)
            else:
                busy.append(worker)
        self.pool.discard(busy)


def _ended_call(worker):
    """Let an idle worker drop what the call needed; False if it cannot be told."""
    try:
        worker.outbox.end_call()
    except BrokenPipeError:
        return False
    return not worker.channel.outgoing_bytes


def _wake_pipe():
    if hasattr(os, "eventfd"):
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return fd, fd
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write
