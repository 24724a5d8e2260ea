"""Judge what a program saw: the invariants that hold whatever goes wrong.

- Every task has exactly one outcome, and runs once (or as often as `retries` allows).
- Results are those of a serial loop, in its order.
- An error is the one that was injected, of a task in which it was.
- What comes after the fault works.
"""

import pickle
import signal
import traceback
from collections import Counter

import numpy as np
import tasks
from payloads import Payloads
from programs import FAULTY_TIMEOUT_S

import cypar

SIGNALS = {"kill": signal.SIGKILL, "segfault": signal.SIGSEGV, "abort": signal.SIGABRT}
CODES = {"leave": 7, "leave_well": 0}
# From Ctrl-C to the exception: 0.2 s on an idle machine; this one is busy.
INTERRUPT_S = 3.0
# what happened, by variant or else by fault -> kind of the `TaskError`
KINDS = {
    "argument cannot be pickled": "pickling",
    "exception": "exception",
    "kill": "crash",
    "exit": "crash",
    "killer": "crash",
    "timeout": "timeout",
    "child_then_error": "exception",
    "child_then_kill": "crash",
    "child_then_leave": "crash",
    "child_then_sleep": "timeout",
}
# variant -> (type of the error, what its text holds)
ERRORS = {
    "raise_exit": ((SystemExit, cypar.CyparError), "injected"),
    "raise_interrupt": ((KeyboardInterrupt, cypar.CyparError), "injected"),
    "argument cannot be pickled": (pickle.PicklingError, ""),
    "argument cannot be loaded": (TypeError, ""),
    "return_unpicklable": (Exception, "not to be pickled"),
    "child_then_error": (Exception, "injected"),
    "child_then_kill": (cypar.WorkerCrash, ""),
    "child_then_leave": (cypar.WorkerCrash, ""),
    "child_then_sleep": (cypar.TaskTimeout, ""),
}
ERRORS_OF_FAULT = {
    "exception": (Exception, "injected"),
    "kill": (cypar.WorkerCrash, ""),
    "exit": (cypar.WorkerCrash, ""),
    "timeout": (cypar.TaskTimeout, ""),
}


def check(program, records, jobs, notes):
    """Return a list of violations, one sentence each.

    Parameters
    ----------
    program : Program
    records : list of Record
    jobs : dict
        Call -> its `Job`.
    notes : list of Note
    """
    violations = []
    for record in records:
        mine = [note for note in notes if note.call == record.call]
        judge = _Judge(program, record, jobs[record.call], mine)
        violations += [f"call {record.call}: {text}" for text in judge.violations()]
    return violations


def certain(program):
    """Whether the fault is sure to give an outcome other than a value."""
    if program.variant == "child_then_value":
        return False
    if program.fault not in ("exception", "kill", "exit", "timeout", "child"):
        return False
    return program.attempts == 0 or program.attempts > program.retries


class _Judge:
    """Judges one call."""

    def __init__(self, program, record, job, notes):
        self.program = program
        self.record = record
        self.job = job
        self.started = Counter(n.index for n in notes if n.what == "started")
        self.finished = Counter(n.index for n in notes if n.what == "finished")
        self.seconds = _seconds_of(notes)
        self.fails = record.is_faulty and certain(program)
        self.faulty = set(program.faulty) if record.is_faulty else set()
        self._expected = {}

    def violations(self):
        """Yield what is wrong."""
        yield from self.runs()
        if self.record.complete:
            yield from self.all_results()
        else:
            yield from self.some_results()
        if self.record.error is not None:
            wrong = list(self.error())
            if wrong:
                wrong[-1] += "\n" + self.record.where
            yield from wrong
        yield from self.bounds()

    # ---- how often tasks ran -------------------------------------------------------

    def runs(self):
        program, record = self.program, self.record
        most = 1 + (program.retries if record.is_faulty else 0)
        crashes = program.fault in ("kill", "exit", "child", "killer")
        for index, count in sorted(self.started.items()):
            may_repeat = index in self.faulty if program.fault != "killer" else True
            allowed = most if crashes and may_repeat else 1
            if count > allowed:
                yield f"task {index} ran {count} times, expected at most {allowed}"
            if not 0 <= index < record.n_tasks:
                yield f"task {index} of {record.n_tasks} ran"
        for index, count in sorted(self.finished.items()):
            if count > self.started[index]:
                yield f"task {index} ended {count} times"
        if record.complete:
            missing = set(range(record.n_tasks)) - set(self.started)
            missing -= self.never_started()
            if missing:
                yield f"the call is complete, but tasks {sorted(missing)} never ran"

    def never_started(self):
        """Tasks that fail before they are sent or begun."""
        unsent = ("argument cannot be pickled", "argument cannot be loaded")
        if self.program.fault in ("descriptors", "killer"):
            # no descriptor for the file of notes; killed as its arguments were loaded
            values = self.record.results
            return {v.index for v in values if isinstance(v, cypar.TaskError)}
        return self.faulty if self.program.variant in unsent else set()

    # ---- results -------------------------------------------------------------------

    def expected(self, index):
        """Return the fingerprint of the result of a serial loop."""
        if index not in self._expected:
            payload = Payloads(self.program, self.record.call).fresh(index)
            value = tasks.expected_value(self.job, index, payload)
            self._expected[index] = tasks.fingerprint(value)
        return self._expected[index]

    def all_results(self):
        record = self.record
        results = record.results
        if len(results) != record.n_tasks:
            yield f"{len(results)} results of {record.n_tasks} tasks"
            return
        if self.fails and self.program.on_error == "raise":
            yield f"no error, though {self.program.variant} is in tasks {self.faulty}"
        if self.program.return_as == "generator_unordered":
            yield from self.same_bag(results, set(range(record.n_tasks)))
            return
        for index, value in enumerate(results):
            yield from self.one_result(index, value)

    def some_results(self):
        results = self.record.results
        if self.record.error is None and self.program.reading == "all":
            yield "neither an error nor all results"
        if self.program.return_as == "generator_unordered":
            yield from self.same_bag(results, None)
            return
        for index, value in enumerate(results):
            yield from self.one_result(index, value)
        raises = self.fails and self.program.on_error == "raise"
        if raises and len(results) > min(self.faulty):
            yield f"{len(results)} results before the error of {self.faulty}"

    def one_result(self, index, value):
        if isinstance(value, cypar.TaskError):
            yield from self.task_error(value, index)
        elif tasks.fingerprint(value) != self.expected(index):
            yield (
                f"wrong result of task {index}: {tasks.fingerprint(value)} instead of "
                f"{self.expected(index)}"
            )
        elif self.fails and index in self.faulty:
            yield f"task {index} has a result in spite of {self.program.variant}"
        yield from self.ordinary(index, value)

    def same_bag(self, results, indexes):
        """Compare results in any order; ``indexes`` None: a part of all."""
        errors = [value for value in results if isinstance(value, cypar.TaskError)]
        for value in errors:
            yield from self.task_error(value, value.index)
        values = [value for value in results if not isinstance(value, cypar.TaskError)]
        got = Counter(map(tasks.fingerprint, values))
        failed = {value.index for value in errors}
        if len(failed) != len(errors):
            yield f"more than one error for one of the tasks {sorted(failed)}"
        may_be = set(range(self.record.n_tasks)) if indexes is None else indexes
        expected = Counter(self.expected(index) for index in may_be - failed)
        wrong = got - expected
        if wrong:
            yield f"{len(wrong)} results that no task has: {sorted(wrong)[:3]}"
        lost = expected - got
        if indexes is not None and lost:
            yield f"{len(lost)} results are missing: {sorted(lost)[:3]}"
        for value in values[:3]:
            yield from self.ordinary("?", value)

    def ordinary(self, index, value):
        """Arrays that come back are private, writeable and of the plain type."""
        if not self.program.pickles or not isinstance(value, np.ndarray):
            return
        if type(value) is not np.ndarray or not value.flags.writeable:
            yield (
                f"result {index} is a {type(value).__name__}, "
                f"writeable: {value.flags.writeable}"
            )

    # ---- errors ----------------------------------------------------------------------

    def error(self):
        yield from self.completed(getattr(self.record.error, "completed", {}))
        yield from self.error_itself()

    def completed(self, values):
        """The finished results that the error leads to are right."""
        for index, value in values.items():
            if not isinstance(value, cypar.TaskError):
                yield from self.one_result(index, value)
            if index not in self.started and index not in self.never_started():
                yield f"task {index} is completed and never started"

    def error_itself(self):
        program, error = self.program, self.record.error
        if self.is_late(error):
            return
        if program.fault == "descriptors" and self.record.call < program.n_calls:
            # with none there is no worker: the call cannot go on
            kind = () if program.variant == "some" else (OSError, cypar.PoolStartError)
            if not isinstance(error, kind):
                yield f"{error!r}, expected {kind or 'no error'}"
        elif not self.record.is_faulty:
            yield f"an error without a fault: {error!r}"
        elif self.fails:
            yield from self.error_of_task(error, getattr(error, "task_index", None))
        elif program.fault == "interrupt":
            if not isinstance(error, KeyboardInterrupt):
                yield f"{error!r} instead of KeyboardInterrupt"
        elif program.fault == "killer":
            yield from self.killed(error)
        elif program.variant != "sys.exit":
            yield f"an error where none was expected: {error!r}"

    def task_error(self, value, index):
        """Check what stands in the place of a failed task."""
        if value.index != index:
            yield f"the error of task {value.index} in the place of task {index}"
        if self.is_late(value.exception):
            return
        kind = KINDS.get(self.program.variant) or KINDS.get(self.program.fault)
        if self.record.is_faulty and kind is not None and value.kind != kind:
            yield f"the error of task {index} is of the kind {value.kind}, not {kind}"
        if self.program.fault == "killer" and self.record.is_faulty:
            yield from self.killed(value.exception)
        elif self.program.fault == "descriptors" and isinstance(
            value.exception, OSError
        ):
            pass  # the task itself, which writes notes, could not open them
        elif not self.fails:
            yield (
                f"task {index} has an error without a fault: {value.exception!r}\n"
                + "".join(traceback.format_exception(value.exception))[-3000:]
            )
        else:
            yield from self.error_of_task(value.exception, index)

    def error_of_task(self, error, index):
        """Check the error of a task in which a fault was sure to happen."""
        program = self.program
        kind, text = ERRORS.get(program.variant) or ERRORS_OF_FAULT[program.fault]
        if program.backend == "sequential" and program.variant == "raise_unpicklable":
            kind = Exception
        if not isinstance(error, kind) or text not in str(error):
            yield f"{error!r} instead of {kind} with {text!r}"
            return
        if program.variant == "input raises":
            index = error.index
        elif program.backend in ("sequential", "threading"):
            index = getattr(error, "index", index)
        if index is None and program.fault == "exception":
            index = next((i for i in self.faulty if f"task {i}" in str(error)), None)
            if program.backend in ("sequential", "threading"):
                return
        if index not in self.faulty:
            yield f"task {index} is blamed, faulty are {self.faulty}: {error!r}"
        if isinstance(error, cypar.WorkerCrash):
            yield from self.crash(error)

    def is_late(self, error):
        """Whether a healthy task ran for too long: on a busy machine it may."""
        if not isinstance(error, cypar.TaskTimeout) or error.task_index in self.faulty:
            return False
        seconds = self.seconds.get(error.task_index, FAULTY_TIMEOUT_S)
        return seconds > 0.8 * FAULTY_TIMEOUT_S

    def crash(self, error):
        variant = self.program.variant.removeprefix("child_then_")
        exitcode = -SIGNALS[variant] if variant in SIGNALS else CODES.get(variant)
        if exitcode is not None and error.exitcode != exitcode:
            yield f"exit code {error.exitcode} instead of {exitcode}: {error}"
        attempts = 1 + self.program.retries
        if error.attempts != attempts:
            yield f"{error.attempts} attempts instead of {attempts}: {error}"

    def killed(self, error):
        """Check the error of a task whose worker was killed from outside."""
        if isinstance(error, cypar.PoolStartError):
            if len(self.record.trigger.killed) < 3:
                yield f"workers do start: {error!r}"
            return
        if not isinstance(error, cypar.WorkerCrash):
            yield f"{error!r} instead of WorkerCrash"
        elif error.exitcode not in (-signal.SIGKILL, None):
            yield f"exit code {error.exitcode} of a killed worker"
        elif error.task_index is None:
            if self.program.backend == "processes":
                yield f"no task is named: {error}"
        elif not 0 <= error.task_index < self.record.n_tasks:
            # it may lack a note: it begins before its arguments are loaded
            yield f"task {error.task_index} is blamed, and there is none"
        if not self.record.trigger.killed:
            yield f"nobody was killed: {error!r}"

    # ---- time ------------------------------------------------------------------------

    def bounds(self):
        trigger = self.record.trigger
        if trigger is None or trigger.fired_at is None:
            return
        if self.program.fault == "interrupt":
            late = self.record.ended_at - trigger.fired_at
            if self.record.error is not None and late > INTERRUPT_S:
                yield f"{late:.1f} s from Ctrl-C to the end"


def _seconds_of(notes):
    """Return {index: seconds that the task ran} for the tasks that ended."""
    begun = {n.index: n.time for n in notes if n.what == "started"}
    ended = {n.index: n.time for n in notes if n.what == "finished"}
    return {index: ended[index] - begun[index] for index in ended if index in begun}
