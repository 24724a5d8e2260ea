"""Which worker runs what is already sent: take tasks back, and give them to another.

A batch that was sent is not yet begun: the parent takes unclaimed tasks back on the
worker's status page. So no task waits behind a long one, and no worker is idle while
another has more than it can begin.
"""

from __future__ import annotations

from cypar.backends.pool.state import snapshot

# Taking tasks back pays if they last longer than about two dispatches.
MIN_STEAL_S = 150e-6
STEAL_RETRY_S = 2e-3  # a task that has run this long holds up what is behind it
LONG_S = 20e-3  # a task that runs longer than this and than ten usual ones is long
LONG_FACTOR = 10


def recall(worker, slot, keep):
    """Take unclaimed tasks of one slot back; returns them."""
    batch = worker.batches[slot]
    first, end = worker.page.recall(slot, keep)
    if first == end:
        return []
    taken = batch.take_back(first, end)
    worker.n_tasks -= len(taken)
    if batch.left == 0:
        worker.batches[slot] = None
    return taken


def take_back_behind_long_tasks(dispatcher):
    """Make pending again what waits behind a task that runs for long.

    An idle worker would take it over, but while the input goes on none is idle.
    """
    limit_s = max(LONG_S, LONG_FACTOR * dispatcher.sizes.task_seconds)
    for worker in dispatcher.workers:
        worker.is_held_up = False
        if not worker.n_batches or worker.page.running_ns() * 1e-9 < limit_s:
            continue
        worker.is_held_up = True
        for slot in (0, 1):
            if worker.batches[slot] is not None and worker.page.unclaimed(slot):
                tasks = recall(worker, slot, 0)
                if tasks:
                    dispatcher.call.source.give_back(tasks)


def rebalance(dispatcher, idle):
    """Give an idle worker half of the unclaimed tasks of the fullest worker."""
    victim, slot, most = None, 0, 0
    for worker in dispatcher.workers:
        for candidate in (0, 1):
            if worker.batches[candidate] is None:
                continue
            n = worker.page.unclaimed(candidate)
            if n > most:
                victim, slot, most = worker, candidate, n
    if victim is None or victim is idle or not idle.can_run or idle.is_spent:
        return
    running_s = victim.page.running_ns() * 1e-9
    stuck = not victim.can_run or running_s > STEAL_RETRY_S
    # One that runs nothing is about to receive the batch: two workers could take
    # a large task from each other without end.
    if not stuck and (
        not running_s or most * dispatcher.sizes.task_seconds < MIN_STEAL_S
    ):
        return
    # A task that holds up the others: take all; else share evenly.
    keep = 0 if stuck and most == 1 else most // 2
    keep = most - dispatcher.life.room(idle, most - keep)
    tasks = recall(victim, slot, keep)
    if tasks:
        dispatcher.sender.send(idle, tasks, snapshot())


def could_rebalance(workers):
    """Whether a worker is idle while another has tasks that it has not claimed."""
    idle = waiting = False
    for worker in workers:
        for slot in (0, 1):
            if worker.batches[slot] is not None and worker.page.unclaimed(slot):
                waiting = True
        idle = idle or worker.n_batches == 0
    return idle and waiting
