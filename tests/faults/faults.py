"""What can go wrong inside of a task."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

from notes import read_notes, write_line

FOREVER_S = 60.0  # how long a task runs that must be stopped
released = threading.Event()  # ends the late tasks of thread backends


class Injected(Exception):
    """The exception that a program raises on purpose."""

    def __init__(self, index, where):
        super().__init__(f"injected into task {index} in {where}")
        self.index = index
        self.where = where


class Unpicklable:
    """Something that cannot be sent."""

    def __reduce__(self):
        raise TypeError("this object is not to be pickled")


class Unloadable:
    """Something that is sent but cannot be loaded."""

    def __reduce__(self):
        return os.strerror, ()  # which wants one argument


class Fault:
    """What happens in one task.

    Attributes
    ----------
    kind : str
    late : bool
        After the task has computed its value, not before.
    attempts : int
        It happens that many times, then the task succeeds.
    """

    def __init__(self, kind, late, attempts=1 << 30):
        self.kind = kind
        self.late = late
        self.attempts = attempts


def happen(job, index, fault):
    """Let a fault happen in this task; returns what replaces its value, if anything."""
    if fault.attempts < 1 << 30:
        ran = [n for n in read_notes(job.folder) if n.what == "started"]
        times = sum(n.call == job.call and n.index == index for n in ran)
        if times > fault.attempts:
            return None
    return FAULTS[fault.kind](job, index)


def raise_injected(job, index):
    raise Injected(index, "the task")


def raise_unpicklable(job, index):
    error = Injected(index, "the task")
    error.lock = threading.Lock()
    raise error


def raise_exit(job, index):
    raise SystemExit(f"injected into task {index} in the task")


def raise_interrupt(job, index):
    raise KeyboardInterrupt(f"injected into task {index} in the task")


def raise_chained(job, index):
    try:
        raise KeyError("deep")
    except KeyError as error:
        raise Injected(index, "the task") from error


def return_unpicklable(job, index):
    return Unpicklable()


def kill(job, index):
    os.kill(os.getpid(), signal.SIGKILL)


def segfault(job, index):
    ctypes.string_at(1)


def abort(job, index):
    os.abort()


def leave(job, index):
    os._exit(7)


def leave_well(job, index):
    os._exit(0)


def sleep_long(job, index):
    time.sleep(FOREVER_S)


def spin_long(job, index):
    until = time.monotonic() + FOREVER_S
    while time.monotonic() < until:
        pass


def hold_gil(job, index):
    sum(range(10**11))  # one call of C code that never looks up


def wait_for_release(job, index):
    released.wait(FOREVER_S)


def start_child(job):
    """Start a process that outlives its task."""
    child = subprocess.Popen(
        [sys.executable, "-S", "-c", f"import time; time.sleep({FOREVER_S})"],
        stdin=subprocess.DEVNULL,
    )
    write_line(os.path.join(job.folder, "children"), f"{child.pid}\n")
    child.returncode = 0  # it is left on purpose: no warning about that


def child_then_value(job, index):
    start_child(job)


def child_then_error(job, index):
    start_child(job)
    raise Injected(index, "the task")


def child_then_kill(job, index):
    start_child(job)
    kill(job, index)


def child_then_leave(job, index):
    start_child(job)
    leave(job, index)


def child_then_sleep(job, index):
    start_child(job)
    time.sleep(FOREVER_S)


FAULTS = {
    function.__name__: function
    for function in (
        raise_injected,
        raise_unpicklable,
        raise_exit,
        raise_interrupt,
        raise_chained,
        return_unpicklable,
        kill,
        segfault,
        abort,
        leave,
        leave_well,
        sleep_long,
        spin_long,
        hold_gil,
        wait_for_release,
        child_then_value,
        child_then_error,
        child_then_kill,
        child_then_leave,
        child_then_sleep,
    )
}
