"""Take in what workers report, and judge what a worker's end means.

A finished result is in the result log or on the socket before its worker claims the
next task, so after a death everything that was finished is read first; what is then
claimed and not done is the task that the worker died of.
"""

from __future__ import annotations

from _signal import SIGBUS, SIGILL, SIGKILL, SIGSEGV  # see spawn.py

from cypar.backends.pool import frames
from cypar.core import errors
from cypar.core._batch import give, read_results, size_of
from cypar.core._status_page import KIND_REFUSED


class Reader:
    """Reads for one dispatcher."""

    def __init__(self, dispatcher):
        self.dispatcher = dispatcher
        self.call = dispatcher.call

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
                    worker.process.ready()
                    self.dispatcher.start_failures = 0
                elif kind == frames.CHANGED:
                    self.changed(worker, number, flags == 1, payload.decode())
        except EOFError:
            ended = True
        frame = payload = None
        self.read_log(worker)
        if ended:
            self.ended(worker)

    def read_log(self, worker):
        finished = read_results(
            worker.page, worker.batches, self.call.outcomes, self.decoded_error
        )
        for batch in finished:
            self.dispatcher.observe(batch)

    def take(self, worker, slot, position, kind, value, seconds):
        """Hand on one task that came over the socket."""
        batch = worker.batches[slot]
        task = batch.tasks[position]
        index = batch.done(position, seconds)
        self.dispatcher.note_result_bytes(size_of(value))
        if batch.left == 0:
            worker.batches[slot] = None
            self.dispatcher.observe(batch)
        if kind == KIND_REFUSED:
            worker.outbox.inline = True
            self.call.source.give_back([task])
            return
        task = None  # its arguments' memory is free
        give(self.call.outcomes, index, kind, value, self.decoded_error)

    def decoded_error(self, index, data):
        # needed only after a failure, and slow to import
        from cypar.transport.exceptions import decode_exception

        exc = decode_exception(bytes(data))
        try:
            exc.task_index = index
        except Exception:
            pass  # a class with __slots__ takes no attribute
        return exc

    # ---- the end of a worker -------------------------------------------------------

    def ended(self, worker):
        """Judge the end of a worker; its unclaimed tasks are pending again."""
        dispatcher = self.dispatcher
        if dispatcher.pool.is_closed:
            raise SystemExit("the interpreter shuts down, the workers were killed")
        dispatcher.forget(worker)
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
        tail = "" if worker.ready else worker.process.stderr_tail()
        dispatcher.pool.discard([worker])
        exitcode = worker.process.exitcode
        if pending:
            self.call.source.give_back(pending)
        if started is not None:
            index, captured = started
            self.call.outcomes.put_error(
                index, crash_error(index, captured[0], worker.pid, exitcode)
            )
        elif not worker.ready:
            self.failed_start(exitcode, tail)

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
        error = errors.timeout_error(started[0], timeout_s)
        for slot in (0, 1):
            batch = worker.batches[slot]
            if batch is not None and started in batch.tasks:
                batch.done(batch.tasks.index(started), timeout_s)
        self.call.outcomes.put_error(started[0], error)
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
                        self.dispatcher.send_by_value(reference, module)
                        return


def crash_error(index, reference, pid, exitcode):
    """Return the `WorkerCrash` of the task that a worker died of."""
    if exitcode is None:
        how = "ended"
    elif exitcode < 0:
        how = f"was killed by {_signal_name(-exitcode)}"
    else:
        how = f"exited with code {exitcode}"
    hint = ""
    if exitcode == -SIGKILL:
        hint = ", likely out of memory: use fewer n_jobs or smaller tasks"
    elif exitcode in (-SIGSEGV, -SIGBUS, -SIGILL):
        hint = ": compiled code failed; the worker's stderr shows where"
    name = getattr(reference, "name", "its function")
    return errors.WorkerCrash(
        f"task {index} ({name}) lost its worker process {pid}, which {how}{hint}",
        task_index=index,
        function=name,
        exitcode=exitcode,
    )


def _signal_name(number):
    from signal import Signals  # slow to import, needed only after a crash

    try:
        return Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"
