"""Every exception and warning class of cypar.

Each class is also a type of the standard library, so that code which does not
know cypar can catch it. Classes whose bases live in modules that are slow to
import (`multiprocessing`, `concurrent.futures`, `pickle`) are built on first use.
"""

from __future__ import annotations

import sys
from _pickle import dumps, loads  # `pickle` is slow to import

MAX_SHOWN = 1000  # characters of an exception's text inside of another's


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
        Exit status of the worker; ``-n`` means killed by signal ``n``. None if it is
        not known, or if the worker lived on but had closed its connection: its task
        started another program in its place, say.
    attempts : int
        How often the task was started in all.
    arguments : str or None
        Short text of its arguments.
    """

    def __init__(
        self,
        message,
        task_index=None,
        function=None,
        exitcode=None,
        attempts=1,
        arguments=None,
    ):
        super().__init__(message)
        self.task_index = task_index
        self.function = function
        self.exitcode = exitcode
        self.attempts = attempts
        self.arguments = arguments

    def __reduce__(self):
        fields = (self.task_index, self.function, self.exitcode, self.attempts)
        return type(self), (*self.args, *fields, self.arguments)


class NoProgressError(CyparError, RuntimeError):
    """Tasks wait, no worker runs one, and nothing happens: an error in cypar itself.

    The message ends with the state of the workers and the stacks of all threads.
    """


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


class InitializerError(CyparError, RuntimeError):
    """The ``initializer`` of worker processes failed.

    ``__cause__`` is what it raised, if it has raised something.
    """


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


class TaskError(CyparError, RuntimeError):
    """Stands in the results for a task that failed, under ``on_error='return'``.

    It is false, so that ``if result:`` does not take it for a result, and an
    exception, so that ``raise result`` shows the whole chain.

    Attributes
    ----------
    index : int
        Position of the task in the input.
    kind : {'exception', 'crash', 'timeout', 'pickling'}
        What happened: the task raised, its worker process died, it ran longer than
        ``timeout``, or it could not be sent to a worker.
    exception : BaseException
        What ``on_error='raise'`` would have raised.
    function : str or None
        Name of the task's function.
    arguments : str or None
        Short text of its arguments.
    attempts : int
        How often the task was started.

    Examples
    --------
    >>> from math import sqrt
    >>> from cypar import Parallel, TaskError, delayed
    >>> out = Parallel(on_error='return')(delayed(sqrt)(x) for x in (4, -1, 9))
    >>> [x for x in out if not isinstance(x, TaskError)]
    [2.0, 3.0]
    >>> out[1]
    TaskError(index=1, kind='exception', sqrt(x=-1), ValueError)
    """

    def __init__(
        self, index, kind, exception, function=None, arguments=None, attempts=1
    ):
        super().__init__(index, kind)
        self.index = index
        self.kind = kind
        self.exception = exception
        self.function = function
        self.arguments = arguments
        self.attempts = attempts
        self.__cause__ = exception

    @property
    def traceback(self):
        """Text of the traceback where the task ran, or an empty string."""
        exc, seen = self.exception, set()
        while exc is not None and id(exc) not in seen:
            if isinstance(exc, TaskTraceback):
                return str(exc)
            seen.add(id(exc))
            exc = exc.__cause__ or exc.__context__
        return ""

    def __bool__(self):
        return False

    def __repr__(self):
        return (
            f"TaskError(index={self.index}, kind={self.kind!r}, {self._call()}, "
            f"{type(self.exception).__name__})"
        )

    def __str__(self):
        try:
            text = str(self.exception)
        except Exception as failure:  # the user's __str__
            text = f"<str() raised {type(failure).__name__}>"
        if len(text) > MAX_SHOWN:
            text = f"{text[:MAX_SHOWN]}..."
        name = type(self.exception).__name__
        return f"task {self.index}, {self._call()}: {name}: {text}"

    def _call(self):
        return f"{self.function or 'its function'}({self.arguments or ''})"

    def __reduce__(self):
        exception = _portable(self.exception)
        fields = (self.index, self.kind, exception, self.function, self.arguments)
        text = "" if exception is None else self.traceback
        return _rebuild_task_error, (type(self), *fields, self.attempts, text)


def _portable(exc):
    """Return ``exc`` if it can be pickled, else a `RemoteError` that tells of it."""
    try:
        if type(loads(dumps(exc))) is type(exc):
            return exc
    except Exception:
        pass  # required arguments of a constructor, a lock among the attributes
    cls = type(exc)
    name = f"{cls.__module__}.{cls.__qualname__}"
    return RemoteError(f"{name}: {exc}"[:MAX_SHOWN], name)


def _rebuild_task_error(cls, index, kind, exception, function, arguments, n, text):
    if text and isinstance(exception, BaseException):
        exception.__cause__ = TaskTraceback(text.lstrip("\n"))
    return cls(index, kind, exception, function, arguments, n)


class Completed(dict):
    """Finished results by the index of their task: ``completed`` of an exception."""


def label(exc, index, function=None, arguments=None):
    """Let an exception know its task.

    Sets ``task_index``, ``task_function`` and ``task_arguments`` (texts), whatever an
    inner call has set; leaves alone what is not known.
    """
    values = (index, function, arguments)
    names = ("task_index", "task_function", "task_arguments")
    for name, value in zip(names, values, strict=True):
        if value is not None:
            _set(exc, name, value)


def attach_completed(exc, results):
    """Set ``completed``, unless the exception has one of its own."""
    try:
        old = getattr(exc, "completed", None)
    except Exception:  # a property of the user's
        return
    if old is None or type(old) is Completed:
        _set(exc, "completed", Completed(results))


def _set(exc, name, value):
    try:
        setattr(exc, name, value)
    except Exception:  # frozen, or with a __setattr__ of its own
        try:
            vars(exc)[name] = value
        except Exception:
            pass  # it takes no attribute at all


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
        `concurrent.futures`. ``task_index`` is the task's position in the input,
        ``task_function`` and ``task_arguments`` are short texts.
        """

        task_index = task_function = task_arguments = None

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
    label(error, index)
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
