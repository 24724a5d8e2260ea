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

import select
import time

from cypar.backends.batch_sizes import BatchSizes
from cypar.backends.pool import balance
from cypar.backends.pool.backoff import SPIN_NS
from cypar.backends.pool.readings import Reader
from cypar.backends.pool.recycling import recycle
from cypar.backends.pool.sending import Sender
from cypar.backends.pool.state import snapshot
from cypar.backends.stall import StallWatch, no_progress, progress_of
from cypar.backends.wake_up import WakeUp
from cypar.backends.worker_life import UNLIMITED
from cypar.core import errors
from cypar.core._batch_estimator import BatchEstimator
from cypar.core._status_page import listen, spin_for_news, stop_listening
from cypar.core._task_queue import END, LATER

DEPTH = 2  # batches in flight per worker
MAX_BATCH_BYTES = 1 << 17  # fits into a socket's usual buffer of 208 kB
SOCKET_EVERY = 16  # turns of the loop that look at result logs only, at most
GRACE_S = 0.02  # a stopped call waits this long for tasks that are nearly done
MAX_START_FAILURES = 3
END_CHECK_S = 0.2  # how often to look for dead workers where nothing tells of them


class Dispatcher:
    """Drives one call; see the top of this file."""

    def __init__(self, call, pool, call_state, functions, memory, setup=None):
        self.call = call
        self.pool = pool
        self.call_state = call_state  # (nesting level, threads, variables)
        self.memory = memory
        self.setup = setup  # pickled initializer and its arguments
        self.life = call.options.worker_life or UNLIMITED
        self.options = call.options
        self.sizes = BatchSizes(call, BatchEstimator(), MAX_BATCH_BYTES)
        self.workers = []
        self.by_fd = {}
        self.poll = select.poll()
        self.reader = Reader(self)
        self.sender = Sender(self, functions)
        self.woken = False
        self.waiting = False
        self.turns = 0
        self.exhausted = False  # the last draw gave nothing
        self.start_failures = 0
        self.watch = StallWatch()
        self.max_start_failures = MAX_START_FAILURES
        self.max_workers = self.options.n_jobs
        self.wake_up = WakeUp()
        self.poll.register(self.wake_up.fd, select.POLLIN)

    # ---- the loop ----------------------------------------------------------------

    def run(self):
        """Run the call; returns when it is done or stopped."""
        try:
            self._run()
        except BaseException:  # Ctrl-C may have come in the middle of the end
            self.close(True)
            raise

    def _run(self):
        call = self.call
        failed = True
        try:
            call.on_wake(self.wake)
            self.pool.enter(self, self.options.n_jobs)  # which may lack descriptors
            call.source.fill()
            while not (call.stopping or call.outcomes.done):
                self.woken = False
                self.dispatch()
                if call.stopping or call.outcomes.done:
                    break
                self.wait_and_read(self.timeout())
            self.settle()
            failed = False
        except KeyboardInterrupt:
            failed = False  # what is idle has nothing to do with it
            raise
        finally:
            call.off_wake(self.wake)
            self.close(failed)

    def warm_up(self):
        """Start all workers of such a call, and wait until they could run tasks."""
        try:
            self._warm_up()
        except BaseException:  # see `run`
            self.close(True)
            raise

    def _warm_up(self):
        failed = True
        try:
            self.pool.enter(self, self.options.n_jobs)
            while True:
                while len(self.workers) < self.max_workers:
                    worker = self.add_worker()
                    if worker is None:  # other calls have them
                        self.max_workers = len(self.workers)
                        break
                    self.sender.prepare(worker, snapshot())
                if all(worker.can_run for worker in self.workers):
                    break
                self.wait_and_read(self.timeout())
            failed = False
        finally:
            self.close(failed)

    def close(self, failed):
        """Give back all that the call has. Idempotent."""
        try:
            self.memory.close()
            self.let_go(failed)
        finally:
            self.wake_up.close()
            self.pool.leave(self)

    def wake(self):
        """Let the loop look again; from any thread."""
        self.woken = True
        if self.waiting:
            self.wake_up.ring()

    def dispatch(self):
        """Send batches while there are tasks and room for them."""
        if self.life.is_limited:
            recycle(self)
        balance.take_back_behind_long_tasks(self)
        while not self.call.stopping:
            worker = self.free_worker()
            if worker is None:
                return
            n = self.life.room(worker, self.sizes.size)
            tasks = self.call.source.draw(n)
            if tasks is LATER or tasks is END:
                self.exhausted = True
                for idle in list(self.workers):
                    if idle.n_batches == 0:
                        balance.rebalance(self, idle)
                return
            self.exhausted = False
            state = snapshot()  # the iterator may have changed it
            self.sender.send(worker, tasks, state)

    def free_worker(self):
        """Return the worker to send the next batch to, or None."""
        best, load = None, DEPTH
        for worker in self.workers:
            n = worker.n_batches
            if n < load and not (worker.is_held_up or worker.is_spent):
                best, load = worker, n
                if n == 0:
                    return best
        # another worker is better than a second batch in flight
        if len(self.workers) < self.max_workers and self.has_task():
            added = self.add_worker()
            if added is not None:
                return added
        return best

    def has_task(self):
        """Make sure that a task waits before a worker is started for it."""
        source = self.call.source
        if not source.pending:
            source.fill()
        return source.has_task()

    def add_worker(self):
        try:
            worker = self.lease()
        except (OSError, errors.PoolStartError):
            if not self.workers:
                raise
            self.max_workers = len(self.workers)  # no descriptors, say: go on so
            return None
        if worker is None:
            return None
        self.workers.append(worker)
        if not worker.ready:
            self.reader.fresh.add(worker)
        self.by_fd[worker.channel.fd] = worker
        self.poll.register(worker.channel.fd, select.POLLIN)
        self.watch_end(worker)
        return worker

    def lease(self):
        """Return a worker that may still run tasks, or None if none is free."""
        while True:
            worker = self.pool.lease(self, self.setup, self.free_index())
            if worker is None or not self.life.is_used_up(worker):
                return worker
            self.pool.discard([worker])

    def free_index(self):
        """Return the lowest number that none of the workers has."""
        taken = {worker.index for worker in self.workers}
        index = 0
        while index in taken:
            index += 1
        return index

    def watch_end(self, worker):
        """Look at the end of a worker's process, too, once it is known which it is."""
        fd = worker.process.process_fd
        if fd >= 0:
            self.by_fd[fd] = worker
            self.poll.register(fd, select.POLLIN)

    # ---- waiting -------------------------------------------------------------------

    def timeout(self):
        """Return how long to wait for news, in ms."""
        waits = [self.watch.check_s]
        if self.exhausted and balance.could_rebalance(self.workers):
            waits.append(balance.STEAL_RETRY_S)
        if self.options.timeout_s is not None:
            for worker in self.workers:
                running = worker.page.running_ns() * 1e-9
                if worker.n_batches:
                    waits.append(max(0.0, self.options.timeout_s - running) + 1e-3)
        for worker in self.workers:
            if not worker.ready:
                waits.append(max(0.0, worker.start_deadline - time.monotonic()) + 1e-3)
            elif worker.process.process_fd < 0:
                waits.append(END_CHECK_S)
        return min(waits) * 1e3

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
            if fd == self.wake_up.fd:
                self.wake_up.clear()
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
        if not (news or events):
            self.find_ended()
            self.check_progress()

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

    def find_ended(self):
        """Look for dead workers where processes have no descriptors."""
        for worker in list(self.workers):
            process = worker.process
            if worker.ready and process.process_fd < 0 and process.has_ended():
                self.reader.read(worker, ended=True)

    def check_progress(self):
        """End the call if nothing can happen any more: an error of the pool's own."""
        queued = sum(worker.channel.outgoing_bytes for worker in self.workers)
        progress = (queued, *progress_of(self.call))
        if not self.watch.is_over_limit(self.is_stalled(), progress):
            return
        states = []
        for worker in self.workers:
            batches = [
                f"{batch.left} of {len(batch.tasks)} tasks open, "
                f"{worker.page.claimed(slot)} begun"
                for slot, batch in enumerate(worker.batches)
                if batch is not None
            ]
            states.append(
                f"worker {worker.pid}: {'; '.join(batches) or 'no batch'}; "
                f"{worker.channel.outgoing_bytes} bytes not sent"
            )
        raise no_progress(self.call, self.watch.limit_s, states)

    def is_stalled(self):
        """Whether tasks are open and every worker waits for a message."""
        if self.call.source.drawing:
            return False
        for worker in self.workers:
            if not worker.ready or not worker.page.is_waiting():
                return False
        return self.call.has_open_tasks()

    # ---- ends ----------------------------------------------------------------------

    def settle(self):
        """Stop what still runs: take back, wait a moment, then kill."""
        deadline = time.monotonic() + GRACE_S
        for worker in list(self.workers):
            for slot in (0, 1):
                if worker.batches[slot] is not None:
                    balance.recall(worker, slot, 0)
        while any(worker.n_batches for worker in self.workers):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            self.woken = False  # else the wait would be none: nothing is sent any more
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

    def let_go(self, failed):
        """Give the workers back to the pool, and kill those that are not idle.

        After a failure of the pool's own all are killed: what they know is uncertain.
        """
        busy = []
        for worker in list(self.workers):
            self.forget(worker)
            unfit = worker.n_batches or worker.channel.outgoing_bytes
            if failed or unfit or worker.is_spent:
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
