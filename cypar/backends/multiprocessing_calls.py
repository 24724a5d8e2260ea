"""One call on the 'multiprocessing' backend: draw, hand out, read, until all is done.

One thread runs a call: the caller in list mode, a pump thread otherwise. Each wait is
a descriptor or a deadline.
"""

from __future__ import annotations

import time
from _pickle import dumps as plain_dumps

from cypar.backends.batch_sizes import BatchSizes
from cypar.backends.multiprocessing_losses import LEAVING_CHECK_S, Losses
from cypar.backends.multiprocessing_worker import BROKEN, CHANGED, SLOT
from cypar.backends.pool.outbox import Outbox
from cypar.core._batch import Batch, give, read_results, size_of
from cypar.core._batch_estimator import BatchEstimator
from cypar.core._status_page import KIND_REFUSED, listen, stop_listening
from cypar.core._task_queue import END, LATER
from cypar.transport._capture import table_of

DISPATCH_S = 200e-6  # what one batch costs: three threads of the Pool handle it
MAX_BATCH_BYTES = 1 << 20  # batches grow to this, for they are copied several times
MIN_STEAL_S = 500e-6  # taking tasks back pays if they last longer than two dispatches
STEAL_RETRY_S = 2e-3  # a task that has run this long holds up what is behind it
GRACE_S = 0.02  # a stopped call waits this long for tasks that are nearly done


class Dispatcher:
    """Drives one call on one pool.

    Parameters
    ----------
    call : Call
    pool : WorkerPool
    table : FunctionTable
        That of the call's capture.
    replace_pool : callable
        () -> the pool that takes the place of one that has lost a worker.
    """

    def __init__(self, call, pool, table, replace_pool):
        self.call = call
        self.pool = pool
        self.table = table
        self.options = call.options
        self.losses = Losses(self, replace_pool)
        self.replacements = {}  # blob by name -> reference by value
        self.sizes = BatchSizes(call, BatchEstimator(DISPATCH_S), MAX_BATCH_BYTES)
        self.exhausted = False  # the last draw gave nothing
        self.inline = False  # workers cannot map segments: they get the bytes

    def run(self):
        """Run the call; returns when it is done or stopped."""
        call = self.call
        call.on_wake(self.wake)
        try:
            call.source.fill()
            while not self.is_over():
                self.losses.replace_if_due()
                if not self.pool.is_leaving:
                    self.dispatch()
                if self.is_over():
                    break
                self.wait_and_read(self.timeout())
            self.settle()
        finally:
            call.off_wake(self.wake)

    def wake(self):
        """Let the loop look again; from any thread."""
        self.pool.wake()

    def is_over(self):
        return bool(self.call.stopping) or self.call.outcomes.done

    def busy(self):
        """Return the tickets whose batches have open tasks."""
        return [ticket for ticket in self.pool.tickets if ticket.batch is not None]

    # ---- handing out ---------------------------------------------------------------

    def dispatch(self):
        """Hand out batches while there are tasks and tickets."""
        while not self.call.stopping:
            ticket = self.pool.free_ticket()
            if ticket is None:
                return
            tasks = self.call.source.draw(self.sizes.size)
            self.exhausted = tasks is LATER or tasks is END
            if self.exhausted:
                self.rebalance(ticket)
                return
            self.send(ticket, tasks)

    def send(self, ticket, tasks):
        """Send a batch as (functions by id, what they refer to, table of the tasks)."""
        functions, numbers, extras = {}, {}, []

        def function_id(reference):
            if self.replacements:
                reference = self.replacements.get(reference.blob, reference)
            number = numbers.get(reference.blob)
            if number is None:
                number = numbers[reference.blob] = len(functions) + 1
                functions[number] = (reference.blob, reference.mutable)
            return number

        # another worker may run each batch, so it is told everything again
        outbox = Outbox(lambda *extra: extras.append(extra), ticket.leases)
        outbox.inline = self.inline
        message = b"".join(table_of(tasks, function_id, outbox))
        content = (functions, extras, len(tasks), message, self.losses.survives)
        payload = plain_dumps(content, 5)
        self.sizes.note_tasks(len(payload), len(tasks))
        self.pool.submit(ticket, Batch(tasks), payload)

    def rebalance(self, free):
        """Give idle workers half of the unclaimed tasks of the fullest batch."""
        while free is not None and len(self.busy()) < self.options.n_jobs:
            # a batch that no worker has yet waits for nothing but an idle worker
            begun = [ticket for ticket in self.busy() if ticket.page.claimed(SLOT)]
            victim = max(begun, key=_unclaimed, default=None)
            most = _unclaimed(victim) if victim is not None else 0
            if most == 0:
                return
            stuck = victim.page.running_ns() * 1e-9 > STEAL_RETRY_S
            if not stuck and most * self.sizes.task_seconds < MIN_STEAL_S:
                return
            tasks = self.recall(victim, 0 if stuck and most == 1 else most // 2)
            if tasks:
                self.send(free, tasks)
            free = self.pool.free_ticket()

    def recall(self, ticket, keep):
        """Take unclaimed tasks back, all but the first ``keep``; returns them."""
        first, end = ticket.page.recall(SLOT, keep)
        if first == end:
            return []
        taken = ticket.batch.take_back(first, end)
        if ticket.batch.left == 0:
            ticket.batches[SLOT] = None
        return taken

    # ---- waiting -------------------------------------------------------------------

    def timeout(self):
        """Return how long to wait for news, in ms."""
        busy = self.busy()
        waits = [self.losses.watch.check_s]
        if self.pool.is_leaving:
            waits.append(LEAVING_CHECK_S)
        if (
            self.exhausted
            and len(busy) < self.options.n_jobs
            and any(map(_unclaimed, busy))
        ):
            waits.append(STEAL_RETRY_S)
        if self.options.timeout_s is not None:
            for ticket in busy:
                running = ticket.page.running_ns() * 1e-9
                waits.append(max(0.0, self.options.timeout_s - running) + 1e-3)
        return min(waits) * 1e3

    def wait_and_read(self, timeout_ms):
        """Wait for news and take it all in."""
        pages = [ticket.page for ticket in self.busy()]
        news = listen(pages)
        try:
            self.pool.wait(0 if news else timeout_ms)
        finally:
            stop_listening(pages)
        self.read()
        self.losses.check()

    def read(self):
        """Take in all results and all answers that have come."""
        for ticket in self.busy():
            self.read_log(ticket)
        completed = self.pool.completed
        while completed:
            ticket, answer = completed.popleft()
            if ticket.batch is not None:
                self.read_log(ticket)  # the answer was after the last record
            if ticket.batch is not None:
                self.read_answer(ticket, answer)
            ticket.in_flight = False

    def read_log(self, ticket):
        finished = read_results(
            ticket.page, ticket.batches, self.call.outcomes, _decoded_error
        )
        for batch in finished:
            self.sizes.observe(batch)

    def read_answer(self, ticket, answer):
        """Take in what the log did not take; no task of the batch stays open."""
        batch, ticket.batches[SLOT] = ticket.batch, None
        outcomes = self.call.outcomes
        if isinstance(answer, BrokenPipeError):
            # all workers are dead, which `Losses` is about to see
            self.call.source.give_back(list(filter(None, batch.tasks)))
            return
        if isinstance(answer, BaseException):
            # the Pool's own failure: no memory, or an argument larger than it takes
            for index, _ in filter(None, batch.tasks):
                outcomes.put_error(index, answer)
            return
        kind, content = answer
        if kind == CHANGED:
            self.send_by_value(batch, *content)
            return
        broken = None
        if kind == BROKEN:
            broken, content = content
        self.take_large(batch, content)
        if broken is not None:
            self.fail_begun(batch, ticket.page.claimed(SLOT), broken)
        # some are left if the worker ended the batch early, to bring large results
        self.give_back_open(batch)
        self.sizes.observe(batch)

    def give_back_open(self, batch):
        """Let other workers run what is left of a batch that has ended."""
        if batch.left:
            for position, task in enumerate(batch.tasks):
                if task is not None:
                    self.call.source.give_back(batch.take_back(position, position + 1))

    def take_large(self, batch, results):
        """Take in the results that came with the answer."""
        for position, result_kind, data, seconds in results:
            task = batch.tasks[position]
            index = batch.done(position, seconds)
            if result_kind == KIND_REFUSED:
                self.inline = True
                self.call.source.give_back([task])
                continue
            task = None  # its arguments' memory is free
            self.sizes.note_result(size_of(data))
            give(self.call.outcomes, index, result_kind, data, _decoded_error)

    def fail_begun(self, batch, claimed, data):
        """Fail the task in which a batch has broken off; the others can still run.

        If none has begun, nothing can be done with this batch: all fail.
        """
        for position in range(claimed or len(batch.tasks)):
            if batch.tasks[position] is not None:
                index = batch.done(position, 0.0)
                self.call.outcomes.put_error(index, _decoded_error(index, data))

    def send_by_value(self, batch, blob, module):
        """Run a batch again: the worker has another version of its module."""
        tasks = list(filter(None, batch.tasks))
        if blob not in self.replacements:  # else another batch has said so already
            by_blob = {}
            for _, captured in tasks:
                reference = captured[0]
                if reference.packed:
                    reference = reference.guard
                if reference is not None:
                    by_blob[reference.blob] = reference
            reference = by_blob.get(blob)
            function = reference and reference.source and reference.source()
            if function is None:
                raise RuntimeError(
                    f"the workers have another version of module {module!r}, which a "
                    "task of this call needs: reload the module, or start again"
                )
            self.table.distrust(module)
            self.replacements[blob] = self.table.encode(function)
        self.call.source.give_back(tasks)

    # ---- the end -------------------------------------------------------------------

    def settle(self):
        """Stop what still runs: take back, and wait a moment for the rest."""
        if self.pool.over:
            return
        deadline = time.monotonic() + GRACE_S
        for ticket in self.busy():
            self.recall(ticket, 0)
        while self.busy() and not self.pool.dead:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self.pool.wait(left * 1e3)
            self.read()


def _unclaimed(ticket):
    return ticket.page.unclaimed(SLOT)


def _decoded_error(index, data):
    # needed only after a failure, and slow to import
    from cypar.transport.exceptions import decode_exception

    return decode_exception(bytes(data))
