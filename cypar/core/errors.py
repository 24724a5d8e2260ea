"""Every exception and warning class of cypar.

Each class is also a type of the standard library, so that code which does not
know cypar can catch it. Classes whose bases live in modules that are slow to
import (`multiprocessing`, `concurrent.futures`, `pickle`) are built on first use.
"""

from __future__ import annotations

import sys


class CyparError(Exception):
    """Base class of all errors that cypar itself raises."""


class CyparWarning(UserWarning):
    """Something worth knowing that does not stop the call."""


class WorkerCrash(CyparError, RuntimeError):
    """A worker process died while it was running a task.

    Attributes
    ----------
    task_index : int
        Position of the task in the input.
    function : str
        Name of the function that was running.
    exitcode : int or None
        Exit status of the worker; ``-n`` means killed by signal ``n``.
    attempts : int
        How often the task was started in all.
    """

    def __init__(
        self, message, task_index=None, function=None, exitcode=None, attempts=1
    ):
        super().__init__(message)
        self.task_index = task_index
        self.function = function
        self.exitcode = exitcode
        self.attempts = attempts

    def __reduce__(self):
        fields = (self.task_index, self.function, self.exitcode, self.attempts)
        return type(self), (*self.args, *fields)


class KernelError(CyparError, RuntimeError):
    """A C function returned a value that stands for a failure.

    Attributes
    ----------
    result : int or float
    row : int or None
        Position in a `Kernel.map`.
    """

    def __init__(self, message, result=None, row=None):
        super().__init__(message)
        self.result = result
        self.row = row

    def __reduce__(self):
        return type(self), (*self.args, self.result, self.row)


class RegionCancelled(CyparError, RuntimeError):
    """A nested native region ended early because one around it failed.

    Only the body that called the nested region sees it: the failure of the region
    around takes its place.
    """


class PoolStartError(CyparError, RuntimeError):
    """Worker processes cannot be started; the message ends with their stderr."""


class BadFileError(CyparError, ValueError):
    """A file is no dump, or only a part of one."""


class RemoteError(CyparError):
    """Stands in for an exception that could not be rebuilt in this process.

    Attributes
    ----------
    type_name : str
        Qualified name of the exception's class in the worker.
    """

    def __init__(self, message, type_name="Exception"):
        super().__init__(message)
        self.type_name = type_name

    def __reduce__(self):
        return type(self), (*self.args, self.type_name)


class TaskTraceback(CyparError):
    """The worker's traceback with parameter values, as text.

    It is put at the end of the cause chain of the exception that the task raised.
    """

    def __str__(self):
        return "\n" + "".join(map(str, self.args))


def _build_task_timeout():
    import concurrent.futures  # slow imports, needed only when a task timed out
    import multiprocessing

    bases = [CyparError]
    for candidate in (
        multiprocessing.TimeoutError,
        concurrent.futures.TimeoutError,
        TimeoutError,
    ):
        if candidate not in bases:
            bases.append(candidate)

    class TaskTimeout(*bases):
        """A task ran longer than ``timeout`` seconds, counted from its start.

        It is a `TimeoutError` of the builtins, of `multiprocessing` and of
        `concurrent.futures`. ``task_index`` is the task's position in the input.
        """

        task_index = None

    return TaskTimeout


def _build_task_pickling_error():
    import pickle  # needed only when pickling failed, and then it is loaded

    class TaskPicklingError(CyparError, pickle.PicklingError):
        """A task cannot be sent to a worker process.

        The message names the task, the argument and the path to the culprit.
        """

    return TaskPicklingError


def timeout_error(index, timeout_s):
    """Return the `TaskTimeout` of task ``index``."""
    error = __getattr__("TaskTimeout")(
        f"task {index} ran for more than timeout={timeout_s:g} s, counted from its "
        "start: raise timeout= or make the task shorter"
    )
    error.task_index = index
    return error


_BUILDERS = {
    "TaskTimeout": _build_task_timeout,
    "TaskPicklingError": _build_task_pickling_error,
}


def __getattr__(name):
    if name in globals():  # asked for by a function of this module
        return globals()[name]
    builder = _BUILDERS.get(name)
    if builder is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    cls = builder()
    cls.__module__ = __name__
    cls.__qualname__ = name
    # setdefault: two threads may get here at once and must agree on one class
    return vars(sys.modules[__name__]).setdefault(name, cls)
