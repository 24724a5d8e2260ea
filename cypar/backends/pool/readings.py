"""Take in what workers report, and judge what a worker's end means.

A finished result is in the result log or on the socket before its worker claims the
next task, so after a death everything that was finished is read first; what is then
claimed and not done is the task that the worker died of.
"""

from __future__ import annotations

from _signal import (  # see spawn.py
    SIGABRT,
    SIGBUS,
    SIGFPE,
    SIGILL,
    SIGKILL,
    SIGSEGV,
)

from cypar.backends.pool import frames
from cypar.core import errors
from cypar.core._batch import give, read_results, size_of
from cypar.core._status_page import KIND_REFUSED

HUNG_UP = (
    "closed its connection to the caller (did the task exec another program, or close "
    "all descriptors?)"
)
MAX_STRIKES = 3  # new workers in a row that die before they begin the same task


class Reader:
    """Reads for one dispatcher."""

    def __init__(self, dispatcher):
        self.dispatcher = dispatcher
        self.call = dispatcher.call
        self.fresh = set()  # workers that were started for this call: no batch is done
        self.strikes = {}  # index -> fresh workers that died before they began it

    def read(self, worker, ended):
        """Take in all news of a worker; ``ended``: its process is gone."""
        channel = worker.channel
        frame = None
        try:
            while True:
                frame = channel.receive()
                if frame is None:
                    break
                kind, slot, flags, number, seconds, payload = frame
                if kind == frames.RESULT:
                    self.take(worker, slot, number, flags, payload, seconds)
                elif kind == frames.READY:
                    worker.ready = True
                    worker.process.ready(number)
                    self.dispatcher.watch_end(worker)
                    self.dispatcher.start_failures = 0
                elif kind == frames.SETUP_DONE:
                    worker.is_set_up = True
                elif kind == frames.SETUP_FAILED:
                    raise failed_initializer(
                        "it raised", self.decoded_error(None, payload)
                    )
                elif kind == frames.NO_FORK:
                    self.dispatcher.pool.server.refuse()
                elif kind == frames.CHANGED:
                    self.changed(worker, number, flags == 1, payload.decode())
        except EOFError:
            ended = True
        frame = payload = None
        if ended:
            worker.process.await_end()
        self.read_log(worker)
        if ended:
            self.ended(worker)

    def read_log(self, worker):
        finished = read_results(
            worker.page, worker.batches, self.call.outcomes, self.decoded_error
        )
        for batch in finished:
            self.dispatcher.sizes.observe(batch)
            self.fresh.discard(worker)

    def take(self, worker, slot, position, kind, value, seconds):
        """Hand on one task that came over the socket."""
        batch = worker.batches[slot]
        task = batch.tasks[position]
        index = batch.done(position, seconds)
        if batch.left == 0:
            worker.batches[slot] = None
            self.dispatcher.sizes.observe(batch)
            self.fresh.discard(worker)
        if kind == KIND_REFUSED:
            worker.outbox.refused()
            self.call.source.give_back([task])
            return
        self.dispatcher.sizes.note_result(size_of(value))
        task = None  # its arguments' memory is free
        give(self.call.outcomes, index, kind, value, self.decoded_error)

    def decoded_error(self, index, data):
        # needed only after a failure, and slow to import
        from cypar.transport.exceptions import decode_exception

        return decode_exception(bytes(data))

    # ---- the end of a worker -------------------------------------------------------

    def ended(self, worker):
        """Judge the end of a worker; its unclaimed tasks are pending again."""
        dispatcher = self.dispatcher
        if dispatcher.pool.is_closed:
            raise SystemExit("the interpreter shuts down, the workers were killed")
        dispatcher.forget(worker)
        fresh = worker in self.fresh
        self.fresh.discard(worker)
        started, pending = take_batches(worker)
        tail = "" if worker.ready else worker.process.stderr_tail()
        dispatcher.pool.discard([worker])
        can_fork = worker.process.is_forked and dispatcher.pool.server.is_usable
        exitcode = worker.process.exitcode
        how = HUNG_UP if worker.process.hung_up else ending(exitcode)
        if started is not None:
            lose(self.call, *started, worker.pid, exitcode, how)
        elif not worker.ready:
            if can_fork or not worker.process.is_forked:
                self.failed_start(exitcode, tail)  # else exec start comes next
        elif not (worker.is_set_up or worker.needs_setup or how == ending(None)):
            raise failed_initializer(f"its process {how}")
        elif fresh and pending and exitcode != 0:
            self.died_before_a_task(pending, worker.pid, exitcode, how)
        if pending:
            self.call.source.give_back(pending)

    def died_before_a_task(self, pending, pid, exitcode, how):
        """Fail a task that new workers die of, one after the other, as they load it.

        Otherwise workers would be started for it without end.
        """
        first = min(pending, key=lambda task: task[0])
        index = first[0]
        self.strikes[index] = self.strikes.get(index, 0) + 1
        if self.strikes[index] >= max(MAX_STRIKES, self.dispatcher.options.retries + 1):
            pending.remove(first)
            strikes = self.strikes[index]
            how += " as it loaded the task"
            error = crash_error(*first, pid, exitcode, strikes, how)
            self.call.outcomes.put_error(
                index, error, "crash", error.function, error.arguments
            )

    def lost_at_start(self, worker):
        """Give up on a worker that never said it was ready."""
        worker.process.kill()
        self.ended(worker)

    def failed_start(self, exitcode, stderr):
        dispatcher = self.dispatcher
        dispatcher.start_failures += 1
        if dispatcher.start_failures < dispatcher.max_start_failures:
            return
        shown = stderr.strip() or "(nothing)"
        raise errors.PoolStartError(
            f"{dispatcher.start_failures} worker processes ended before they were "
            f"ready (exit code {exitcode}). Is sys.executable a Python interpreter "
            f"with cypar's path? Their stderr ended with:\n{shown}"
        )

    def timed_out(self, worker, timeout_s):
        """Fail the task that runs too long, and kill its worker only."""
        started = None
        for slot in (0, 1):
            batch = worker.batches[slot]
            if batch is not None:
                claimed = worker.page.claimed(slot)
                for task in batch.tasks[:claimed]:
                    started = task or started
        if started is None:
            return
        worker.process.kill()
        index, captured = started
        error = errors.timeout_error(index, timeout_s)
        for slot in (0, 1):
            batch = worker.batches[slot]
            if batch is not None and started in batch.tasks:
                batch.done(batch.tasks.index(started), timeout_s)
        described = describe_captured(captured)
        self.call.outcomes.put_error(index, error, "timeout", *described)
        self.ended(worker)

    def changed(self, worker, number, was_loaded, module):
        """Note that a worker has another version of a module; it ends by itself."""
        if was_loaded:
            return  # a new worker imports it as it is now
        for batch in worker.batches:
            for task in batch.tasks if batch is not None else ():
                if task is not None:
                    reference = task[1][0]
                    if worker.functions.get(reference.blob) == number:
                        self.dispatcher.sender.send_by_value(reference, module)
                        return


def take_batches(worker):
    """Take away what was sent to a worker and is not done.

    Returns
    -------
    (started, pending) : the task that it has begun or None, and a list of the others
    """
    pending = []
    started = None
    for slot in (0, 1):
        batch = worker.batches[slot]
        if batch is None:
            continue
        claimed = worker.page.claimed(slot)
        for position, task in enumerate(batch.tasks):
            if task is None:
                continue
            if position < claimed:
                started = task
            else:
                pending.append(task)
        worker.batches[slot] = None
    return started, pending


def lose(call, index, captured, pid, exitcode, how=None):
    """Run the task again that a worker died of, or fail it."""
    outcomes = call.outcomes
    lost = outcomes.lost.get(index, 0)
    if lost < call.options.retries:
        outcomes.lost[index] = lost + 1
        call.source.give_back([(index, captured)])
        return
    error = crash_error(index, captured, pid, exitcode, lost + 1, how)
    outcomes.put_error(index, error, "crash", error.function, error.arguments)


def describe_captured(captured):
    # needed only after a failure
    from cypar.transport import summary

    return summary.describe_captured(captured)


def crash_error(index, captured, pid, exitcode, attempts=1, how=None):
    """Return the `WorkerCrash` of the task that a worker died of.

    Parameters
    ----------
    how : str or None
        What the worker did, if the exit code does not tell it all.
    """
    how = how or ending(exitcode)
    hint = ""
    if exitcode == -SIGKILL:
        hint = ", likely out of memory: use fewer n_jobs or smaller tasks"
    elif exitcode in (-SIGSEGV, -SIGBUS, -SIGILL, -SIGABRT, -SIGFPE):
        hint = ": compiled code failed; the worker's stderr shows where"
    function, arguments = describe_captured(captured)
    again = f" ({attempts} attempts)" if attempts > 1 else ""
    return errors.WorkerCrash(
        f"task {index} ({function or 'its function'}({arguments})) lost its worker "
        f"process {pid}, which {how}{again}{hint}",
        task_index=index,
        function=function,
        exitcode=exitcode,
        attempts=attempts,
        arguments=arguments,
    )


def ending(exitcode):
    """Return in words how a process ended."""
    if exitcode is None:
        return "ended"
    if exitcode < 0:
        return f"was killed by {_signal_name(-exitcode)}"
    return f"exited with code {exitcode}"


def failed_initializer(how, cause=None):
    """Return the error for an initializer that ``how`` says the failure of."""
    what = "" if cause is None else f" {type(cause).__name__}: {cause}"
    error = errors.InitializerError(
        f"the initializer of a worker process failed: {how}{what}. No task can run "
        "without it; tasks that had finished are kept, the others have not begun"
    )
    error.__cause__ = cause
    return error


def _signal_name(number):
    from signal import Signals  # slow to import, needed only after a crash

    try:
        return Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"
