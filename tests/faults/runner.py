"""Run one random program in this process and record what it saw."""

import functools
import os
import signal
import sys
import threading
import time
import traceback
import warnings

import tasks
from faults import FAULTS, Fault, Injected, Unloadable, Unpicklable, released
from payloads import Payloads
from surroundings import around
from trigger import Trigger

from cypar import Parallel, delayed

CHECK_TASKS = 8  # of the call that shows that all is well again
IN_TASK = ("exception", "kill", "exit", "timeout", "child")


class Record:
    """What one call gave.

    Attributes
    ----------
    call : int
    is_faulty : bool
        The program's fault was to happen in it.
    n_tasks : int
    results : list
    complete : bool
        The list, or the whole generator, was had.
    error : BaseException or None
    where : str
        Its traceback.
    trigger : Trigger or None
    seconds : float
    ended_at : float
    """

    def __init__(self, call, is_faulty, n_tasks):
        self.call = call
        self.is_faulty = is_faulty
        self.n_tasks = n_tasks
        self.results = []
        self.complete = False
        self.error = None
        self.where = ""
        self.trigger = None
        self.seconds = self.ended_at = 0.0


class Runner:
    """Runs one program.

    Parameters
    ----------
    program : Program
    folder : str
        Existing, empty folder for its files.
    mountable : bool
        File systems can be mounted.
    """

    def __init__(self, program, folder, mountable=False):
        self.program = program
        self.folder = folder
        self.mountable = mountable
        self.records = []
        self.jobs = {}
        self.forked = []  # exit statuses of forked children
        self.warnings = []
        self.armed = False
        self.generator = None

    def run(self):
        """Run all calls of the program."""
        released.clear()
        old_handler = signal.signal(signal.SIGINT, self._interrupted)
        try:
            with warnings.catch_warnings(record=True) as self.warnings:
                warnings.simplefilter("always")
                with around(self.program, self.folder, self.mountable) as temp_folder:
                    self._run_calls(self._make_parallel(temp_folder))
                if not self.program.ends:
                    self._check_call()
        finally:
            signal.signal(signal.SIGINT, old_handler)
            released.set()
        return self.records

    def _interrupted(self, number, frame):
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt

    # ---- calls -------------------------------------------------------------------

    def _make_parallel(self, temp_folder):
        program = self.program
        options = {
            "n_jobs": program.n_jobs,
            "backend": program.backend,
            "return_as": program.return_as,
            "batch_size": program.batch_size,
            "pre_dispatch": program.pre_dispatch,
            "mmap_mode": program.mmap_mode,
            "max_nbytes": program.max_nbytes,
            "temp_folder": temp_folder,
            "timeout": program.timeout,
            "on_error": program.on_error,
            "retries": program.retries,
        }
        if program.max_tasks is not None:
            options["max_tasks_per_worker"] = program.max_tasks
        return Parallel(**options)

    def _run_calls(self, parallel):
        neighbour = self._start_neighbour()
        try:
            if self.program.block:
                with parallel:
                    self._call_all(parallel)
            else:
                self._call_all(parallel)
        finally:
            if neighbour is not None:
                neighbour.join()

    def _call_all(self, parallel):
        for call in range(self.program.n_calls):
            self._call(parallel, call, self.program.n_tasks)
        if self.program.variant == "sys.exit":
            sys.exit(0)

    def _check_call(self):
        """One more call after the fault, without any."""
        self._call(self._make_parallel(None), self.program.n_calls, CHECK_TASKS)

    def _start_neighbour(self):
        """Start a thread that makes the same calls at the same time, without faults."""
        if not self.program.beside:
            return None

        def call_twice():
            for turn in range(2):
                call = self.program.n_calls + 1 + turn
                self._call(self._make_parallel(None), call, self.program.n_tasks)

        thread = threading.Thread(target=call_twice, name="neighbour")
        thread.start()
        return thread

    def _call(self, parallel, call, n_tasks):
        program = self.program
        is_faulty = call == program.faulty_call
        record = Record(call, is_faulty, min(n_tasks, program.n_tasks))
        self.records.append(record)
        job = self._make_job(record)
        if is_faulty and program.fault in ("killer", "interrupt", "end"):
            record.trigger = Trigger(program, self.folder, call)
            self.armed = program.fault == "interrupt"
        begun = time.monotonic()
        try:
            if record.trigger is not None:
                record.trigger.start()
            self._read(parallel(self._input(job, record)), record)
        except BaseException as error:
            record.ended_at = time.monotonic()
            record.error = error
            record.where = "".join(traceback.format_exception(error))[-3000:]
            # its frames hold the generator, which a program would drop with them
            error.__traceback__ = None
        record.ended_at = record.ended_at or time.monotonic()
        record.seconds = record.ended_at - begun
        if is_faulty:
            self.armed = False
        if record.trigger is not None:
            record.trigger.stop()
        released.set()  # tasks of threads that were given up may end now
        released.clear()

    def _make_job(self, record):
        program = self.program
        faults = {}
        if record.is_faulty and program.variant in FAULTS:
            fault = Fault(program.variant, program.late, program.attempts or 1 << 30)
            faults = dict.fromkeys(program.faulty, fault)
        job = tasks.Job(self.folder, record.call, program, faults)
        self.jobs[record.call] = job
        return job

    # ---- input and output ----------------------------------------------------------

    def _input(self, job, record):
        """Return the tasks of a call: a generator, or sometimes a list."""
        items = self._items(job, record)
        lazy = (
            self.program.payload in ("refilled", "touched")
            or self.program.fault == "fork"
            or self.program.variant == "input raises"
        )
        return items if lazy or self.program.number % 3 else list(items)

    def _items(self, job, record):
        program = self.program
        function = make_function(program.function, job)
        faulty = set(program.faulty) if record.is_faulty else set()
        payloads = Payloads(program, record.call).given(record.n_tasks)
        for index, payload in enumerate(payloads):
            if index in faulty:
                if program.variant == "input raises":
                    raise Injected(index, "the input")
                if program.variant == "argument cannot be pickled":
                    payload = Unpicklable()
                if program.variant == "argument cannot be loaded":
                    payload = Unloadable()
                if program.fault == "fork" and program.return_as == "list":
                    self._fork()
            yield function(index, payload)

    def _read(self, output, record):
        program = self.program
        if program.return_as == "list":
            record.results = output
            record.complete = True
            return
        if record.is_faulty and program.ends:
            self.generator = output  # it lives until the interpreter's end
        enough = record.n_tasks // 2 if self.program.reading in LEAVING else -1
        for value in output:
            record.results.append(value)
            n = len(record.results)
            if program.reading == "slowly" and n % 16 == 0:
                time.sleep(0.001)
            if record.is_faulty and program.fault == "fork" and n in program.faulty:
                self._fork(output)
            if n == enough:
                if program.reading == "half" and not program.ends:
                    output.close()
                return
        record.complete = True

    def _fork(self, generator=None):
        """Fork this process; the child does something and must succeed."""
        with warnings.catch_warnings():
            # of Python 3.12: this process has threads
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            try:
                self._act_as_child(generator)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            os._exit(1)
        _, status = os.waitpid(pid, 0)
        self.forked.append(os.waitstatus_to_exitcode(status))

    def _act_as_child(self, generator):
        variant = self.program.variant
        if variant == "generator" and generator is not None:
            try:
                next(generator)
            except (RuntimeError, StopIteration):
                os._exit(0)
        elif variant == "call":
            parallel = Parallel(n_jobs=2, backend=self.program.backend)
            if parallel(delayed(abs)(-i) for i in range(5)) == list(range(5)):
                os._exit(0)
        else:
            os._exit(0)


LEAVING = ("half", "dropped")


def make_function(kind, job):
    """Return a function that makes the task of an index and its payload."""
    if kind == "module":
        task = delayed(tasks.run)
        return lambda index, payload: task(job, index, payload)
    if kind == "closure":

        def closure(index, payload):
            return job.run(index, payload)

        return delayed(closure)
    if kind == "partial":
        return delayed(functools.partial(tasks.run, job))
    return delayed(job.run)
