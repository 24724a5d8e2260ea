"""What becomes of a call on the 'multiprocessing' backend that loses a worker.

A worker that dies may hold a lock of the Pool's queues, so the Pool is not used any
more. If the call is to go on, or if the worker ran no task, the call *leaves* the
Pool: unclaimed tasks are taken back, the other workers end what they run, and a new
Pool takes over. Otherwise all workers are killed at once, so that none holds up the
error.
"""

from __future__ import annotations

import time

from cypar.backends.multiprocessing_worker import IDLE, SLOT
from cypar.backends.pool.readings import (
    HUNG_UP,
    crash_error,
    describe_captured,
    lose,
)
from cypar.backends.stall import StallWatch, no_progress, progress_of
from cypar.core import errors

LEAVING_CHECK_S = 0.05  # how often to look whether a Pool can be left
ANSWER_S = 5.0  # what a worker that runs nothing has not said by then never comes
MAX_VAIN = 3  # Pools in a row that are lost before any task has ended


class Losses:
    """Looks for workers that are dead or late, for one dispatcher.

    Parameters
    ----------
    dispatcher : Dispatcher
    replace_pool : callable
        () -> another `WorkerPool`, when the old one has been killed.

    Attributes
    ----------
    survives : bool
        A lost worker does not end the call.
    """

    def __init__(self, dispatcher, replace_pool):
        options = dispatcher.options
        self.dispatcher = dispatcher
        self.call = dispatcher.call
        self.replace_pool = replace_pool
        self.survives = options.on_error == "return" or options.retries > 0
        self.timeout_s = options.timeout_s
        self.known = set()  # pids of dead workers that have been dealt with
        self.quiet_since_s = None  # no worker of a Pool that is left runs a task
        self.finished = -1  # tasks that had ended when the last Pool was left
        self.n_vain = 0
        self.watch = StallWatch()

    @property
    def pool(self):
        """The Pool that the call uses now."""
        return self.dispatcher.pool

    def check(self):
        """Deal with workers that have ended, and with tasks that run for too long."""
        dead = [pid for pid in self.pool.dead if pid not in self.known]
        if dead:
            self.dispatcher.read()
            if not self.survives and self.costs_a_task(dead):
                self.fail_call()
                return
            self.mourn(dead)
        if self.timeout_s is not None:
            self.find_late()
        if self.watch.is_over_limit(self.is_stalled(), progress_of(self.call)):
            raise no_progress(self.call, self.watch.limit_s, [_state(self.pool)])

    def is_stalled(self):
        """Whether tasks are open and every worker has said that it is idle."""
        numbers = self.pool.on_ticket.values()
        if self.call.source.drawing or self.pool.is_leaving:
            return False
        if len(numbers) < self.pool.n_jobs or any(number != IDLE for number in numbers):
            return False
        return self.call.has_open_tasks()

    def costs_a_task(self, dead):
        """Whether one of some dead workers ran a task, or never got that far."""
        return any(
            pid not in self.pool.ready or _running(self.ticket_of(pid)) is not None
            for pid in dead
        )

    # ---- a call that goes on -------------------------------------------------------

    def mourn(self, dead):
        """Deal with each worker that has died since the last time."""
        pool = self.pool
        self.known.update(dead)
        for pid in dead:
            if pid not in pool.ready:
                raise _start_error(pid, pool.exitcode_of(pid))
            ticket = self.ticket_of(pid)
            if ticket is not None and ticket.batch is not None:
                self.abandon(ticket, pid, pool.exitcode_of(pid))
        self.leave()

    def abandon(self, ticket, pid, exitcode):
        """Give up the batch of a dead worker: what it had not begun runs elsewhere.

        What it had begun is lost, also large results that it had for the answer. A
        batch that it ended early, to bring these, cannot be recalled any more.
        """
        batch, ticket.batches[SLOT] = ticket.batch, None
        for position in range(ticket.page.claimed(SLOT)):
            task = batch.tasks[position]
            if task is not None:
                batch.done(position, 0.0)
                lose(self.call, *task, pid, exitcode, _how_ended(self.pool, pid))
        self.dispatcher.give_back_open(batch)

    def leave(self):
        """Hand out nothing any more, and take back what has not begun."""
        self.pool.is_leaving = True
        for ticket in self.dispatcher.busy():
            tasks = self.dispatcher.recall(ticket, 0)
            if tasks:
                self.call.source.give_back(tasks)

    def replace_if_due(self):
        """Take a new Pool when the workers of the old one have ended their tasks."""
        if not self.pool.is_leaving:
            return
        if self.dispatcher.busy():
            self.give_up_answers()
            return
        self.n_vain += 1
        if self.call.outcomes.finished != self.finished:
            self.finished = self.call.outcomes.finished
            self.n_vain = 0
        if self.n_vain >= MAX_VAIN:
            self.pool.kill()
            self.fail_between_tasks(next(iter(self.known)))
        self.known.clear()
        self.quiet_since_s = None
        self.dispatcher.pool = self.replace_pool()

    def give_up_answers(self):
        """Fail the tasks whose results are lost in the queue of a dead worker."""
        busy = self.dispatcher.busy()
        # the page of a dead worker may go on saying that a task runs
        pool = self.pool
        held = {n for pid, n in pool.on_ticket.items() if pid not in pool.dead}
        if any(ticket.page.running_ns() for ticket in busy if ticket.number in held):
            self.quiet_since_s = None
        elif self.quiet_since_s is None:
            self.quiet_since_s = time.monotonic()
        elif time.monotonic() - self.quiet_since_s > ANSWER_S:
            for ticket in busy:
                self.abandon(ticket, next(iter(self.known)), None)

    # ---- tasks that are late -------------------------------------------------------

    def find_late(self):
        limit_ns = self.timeout_s * 1e9
        for ticket in self.dispatcher.busy():
            if ticket.page.running_ns() <= limit_ns:
                continue
            self.dispatcher.read()  # it may have just finished
            running = _running(ticket)
            if running is None or ticket.page.running_ns() <= limit_ns:
                continue
            index, captured = running
            if self.survives:
                self.kill_worker_of(ticket)
            else:
                self.pool.kill()  # no other worker may hold up the error
            error = errors.timeout_error(index, self.timeout_s)
            described = describe_captured(captured)
            self.call.outcomes.put_error(index, error, "timeout", *described)
            if not self.survives:
                return

    def kill_worker_of(self, ticket):
        """Kill the worker of one late task, and leave the Pool."""
        _end(ticket)
        for pid, number in self.pool.on_ticket.items():
            if number == ticket.number and pid not in self.known:
                self.known.add(pid)
                self.pool.kill_worker(pid)
        self.leave()

    # ---- a call that ends ----------------------------------------------------------

    def fail_call(self):
        """Fail the call: a worker has ended by itself."""
        pool = self.pool
        dead = list(pool.dead)
        for pid in dead:
            pool.exitcode_of(pid)  # while it is not killed with the others
        pool.kill()
        self.dispatcher.read()
        if self.dispatcher.is_over():
            return
        # others may have died by themselves, too, before they were killed
        dead += [pid for pid in pool.exitcodes if pid not in dead]
        found = False
        for pid in dead:
            running = _running(self.ticket_of(pid))
            if running is not None:
                found = True
                index, captured = running
                exitcode = pool.exitcodes.get(pid)
                how = _how_ended(pool, pid)
                error = crash_error(index, captured, pid, exitcode, how=how)
                self.call.outcomes.put_error(
                    index, error, "crash", error.function, error.arguments
                )
        if not found:
            self.fail_between_tasks(dead[0])

    def fail_between_tasks(self, pid):
        exitcode = self.pool.exitcodes.get(pid)
        if pid not in self.pool.ready:
            raise _start_error(pid, exitcode)
        open_tasks = sorted(
            index
            for ticket in self.dispatcher.busy()
            for index, _ in filter(None, ticket.batch.tasks)
        )
        shown = ", ".join(map(str, open_tasks[:20])) or "none"
        raise errors.WorkerCrash(
            f"worker process {pid} ended (exit code {exitcode}) between two tasks; "
            f"tasks that were not finished: {shown}",
            exitcode=exitcode,
        )

    def ticket_of(self, pid):
        """Return the ticket that a worker works on, or None."""
        number = self.pool.on_ticket.get(pid, -1)
        return self.pool.tickets[number] if number >= 0 else None


def _how_ended(pool, pid):
    """Return what a worker did if its exit code does not tell it, else None."""
    return HUNG_UP if pid in pool.cut_off else None


def _running(ticket):
    """Return the task that was claimed last if it is not done, else None."""
    if ticket is None or ticket.batch is None:
        return None
    claimed = ticket.page.claimed(SLOT)
    return ticket.batch.tasks[claimed - 1] if claimed else None


def _end(ticket):
    """Note that the task which was claimed last has ended, in whatever way."""
    ticket.batch.done(ticket.page.claimed(SLOT) - 1, 0.0)
    if ticket.batch.left == 0:
        ticket.batches[SLOT] = None


def _state(pool):
    tickets = ", ".join(
        f"{ticket.number}: {ticket.batch.left if ticket.batch else 0} tasks open"
        for ticket in pool.tickets
        if ticket.in_flight
    )
    return (
        f"tickets in flight: {tickets or 'none'}; workers on tickets {pool.on_ticket}"
    )


def _start_error(pid, exitcode):
    return errors.PoolStartError(
        f"worker process {pid} ended before it was ready (exit code {exitcode}); its "
        "stderr says why. With the start methods 'spawn' and 'forkserver' a script "
        "needs `if __name__ == '__main__':` around what it runs"
    )
