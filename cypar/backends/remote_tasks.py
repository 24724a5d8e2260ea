"""What is handed to other people's backends and executors: a batch as one callable.

The callable takes nothing, has ``len()`` and returns one `Done` or `Failed` per task;
it does not raise. It and its results pickle with any pickler: functions of
``__main__``, lambdas and exceptions of all kinds travel as cypar's own bytes.
"""

from __future__ import annotations

from cypar.core import config_state
from cypar.core.traceback_text import attach_task_traceback, format_task_traceback
from cypar.transport import serialize
from cypar.transport.exceptions import decode_exception, encode_exception


class Done:
    """The result of one task."""

    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value

    def __reduce__(self):
        try:
            data = serialize.dumps_result(self.value)
        except Exception as exc:  # the task's result cannot travel: its own error
            return Failed(exc).__reduce__()
        return _load_done, (data,)


class Failed:
    """The exception of one task."""

    __slots__ = ("call", "exc")

    def __init__(self, exc, call=(None, (), {})):
        self.exc = exc
        self.call = call

    def __reduce__(self):
        return _load_failed, (encode_exception(self.exc, *self.call),)


def _load_done(data):
    return Done(serialize.loads(data))


def _load_failed(data):
    return Failed(decode_exception(data))


class TaskBatch:
    """A batch of tasks, callable without arguments.

    Parameters
    ----------
    tasks : list
        Task tuples, or the bytes of pickled ones.
    nested : tuple of (level, backend, n_jobs)
        What the tasks' own parallel loops run on.
    """

    def __init__(self, tasks, nested):
        self.tasks = tasks
        self.nested = nested

    def __len__(self):
        return len(self.tasks)

    def __call__(self):
        state = config_state.task_state(*self.nested)
        old = config_state.swap(state, in_context=True)
        try:
            return [_run(task) for task in self.tasks]
        finally:
            config_state.swap(old, in_context=True)

    def __reduce__(self):
        tasks = [t if type(t) is bytes else serialize.dumps(t) for t in self.tasks]
        return TaskBatch, (tasks, self.nested)


def _run(task):
    function, args, kwargs = None, (), {}
    try:
        if type(task) is bytes:
            task = serialize.loads(task)
        function, args, kwargs = task
        return Done(function(*args, **kwargs))
    except BaseException as exc:
        return Failed(exc, (function, args, kwargs))


def error_of(failed):
    """Return the exception of a `Failed`, with its traceback text if it has none yet."""
    if failed.call[0] is not None:  # it ran in this process and was not pickled
        text = format_task_traceback(failed.exc, *failed.call)
        attach_task_traceback(failed.exc, text)
    return failed.exc
