"""What is handed to other people's backends and executors: a batch as one callable.

The callable takes nothing, has ``len()`` and returns the list of the results. It does
not raise: where a task failed, the list has a `Failed`. In the process that made it,
tasks get the caller's own objects and contextvars. Pickled, by whatever pickler, tasks
and results travel as cypar's own bytes, so that functions of ``__main__``, lambdas and
exceptions of all kinds get through, and nothing fails while it is loaded.
"""

from __future__ import annotations

from contextvars import copy_context

from cypar.backends import registry
from cypar.core import config_state
from cypar.core.traceback_text import (
    attach_task_traceback,
    format_task_traceback,
    label_with_task,
)
from cypar.transport import serialize
from cypar.transport.culprit import explain
from cypar.transport.exceptions import decode_exception, encode_exception


class Nested:
    """What the parallel loops inside of tasks run on.

    Parameters
    ----------
    level : int
        Nesting level of the tasks.
    spec : str, object or None
        A backend; None for what cypar takes on that level. In another process, the
        bytes of one, loaded when a task needs it: some can only be made in a task.
    n_jobs : int or None
    """

    __slots__ = ("level", "n_jobs", "spec")

    def __init__(self, level, spec=None, n_jobs=None):
        self.level = level
        self.spec = spec
        self.n_jobs = n_jobs

    def state(self):
        """Return the settings that a task starts from."""
        backend = self.spec
        if backend is not None and not registry.is_builtin(backend):
            backend = _MadeWhenUsed(self)
        return config_state.task_state(self.level, backend, self.n_jobs)

    def make(self):
        """Return the backend."""
        spec = self.spec
        if type(spec) is bytes:
            spec = serialize.loads(spec)
        return registry.build(spec, self.level)

    def __reduce__(self):
        spec = self.spec
        if spec is not None and type(spec) not in (str, bytes):
            spec = serialize.dumps(spec)
        return Nested, (self.level, spec, self.n_jobs)


class _MadeWhenUsed:
    """Stands for a backend in the settings of tasks that may never use it."""

    def __init__(self, nested):
        self._nested = nested

    def __getattr__(self, name):
        made = self.__dict__.get("_made")
        if made is None:
            made = self._made = self._nested.make()
        return getattr(made, name)


class TaskBatch:
    """Some tasks of one call, as a callable without arguments.

    Parameters
    ----------
    tasks : list
        Task tuples, or the bytes of pickled ones.
    indexes : list of int
        Positions of the tasks in the input.
    nested : Nested or None
        None for tasks that run in the caller: nothing is nested then.
    context : contextvars.Context, optional
        Where the tasks run, if they run in this process.
    """

    def __init__(self, tasks, indexes, nested=None, context=None):
        self.tasks = tasks
        self.indexes = indexes
        self.nested = nested
        self.context = context

    def __len__(self):
        return len(self.tasks)

    def __call__(self):
        # a context of its own: another batch may run in another thread
        context = copy_context() if self.context is None else self.context.copy()
        return context.run(self._run)

    def _run(self):
        if self.nested is not None:
            config_state.swap(self.nested.state(), in_context=True)
        return Results(map(run_task, self.tasks))

    @property
    def items(self):
        """The tasks as (function, args, kwargs), for backends that send them singly.

        A function returns a `Failed` where the task's own one raises.
        """
        tasks = (serialize.loads(t) if type(t) is bytes else t for t in self.tasks)
        return [(TaskFunction(f, self.nested), args, kw) for f, args, kw in tasks]

    def __reduce__(self):
        tasks = [
            task if type(task) is bytes else dump_task(index, task)
            for index, task in zip(self.indexes, self.tasks, strict=True)
        ]
        return TaskBatch, (tasks, self.indexes, self.nested)


class TaskFunction:
    """The function of one task, to be called with the task's arguments."""

    def __init__(self, function, nested):
        self.function = function
        self.nested = nested
        self.__name__ = getattr(function, "__name__", type(function).__name__)

    def __call__(self, *args, **kwargs):
        task = (self.function, args, kwargs)
        (result,) = TaskBatch([task], [0], self.nested)()
        return result

    def __eq__(self, other):
        return type(other) is TaskFunction and self.function == other.function

    def __hash__(self):
        return hash(self.function)

    def __reduce__(self):
        return _load_function, (serialize.dumps(self.function), self.nested)


def _load_function(data, nested):
    return TaskFunction(serialize.loads(data), nested)


def dump_task(index, task):
    """Pickle a task; what cannot be pickled is named in the error."""
    try:
        return serialize.dumps(task)
    except Exception as exc:
        raise explain(index, *task, exc) from exc


def run_task(task):
    """Return the result of a task, or a `Failed`."""
    function, args, kwargs = None, (), {}
    try:
        if type(task) is bytes:
            task = serialize.loads(task)
        function, args, kwargs = task
        return function(*args, **kwargs)
    except BaseException as exc:
        return Failed(exc, (function, args, kwargs))


# ---- results -----------------------------------------------------------------------


class Results(list):
    """The results of a batch; pickled as cypar's own bytes."""

    def __reduce__(self):
        return _load_results, ([_encoded(result) for result in self],)


def _encoded(result):
    if type(result) is Failed:
        return result
    try:
        return serialize.dumps_result(result)
    except Exception as exc:  # it cannot travel: the error of its own task only
        return Failed(exc)


def _load_results(entries):
    return Results(map(_decoded, entries))


def _decoded(entry):
    if type(entry) is Failed:
        return entry
    try:
        return serialize.loads(entry)
    except Exception as exc:  # raised here, it would break the pool that reads it
        return Failed(exc)


class Failed:
    """Stands for the result of a task that raised an exception.

    Parameters
    ----------
    exc : BaseException
    task : tuple of (function, args, kwargs)
        For the text of the traceback, if it is still to be written.
    """

    __slots__ = ("exc", "task")

    def __init__(self, exc, task=None):
        self.exc = exc
        self.task = task

    def __reduce__(self):
        return _load_failed, (encode_exception(self.exc, *(self.task or ())),)

    def error(self, index):
        """Return the exception, with the text of the traceback and ``task_index``."""
        exc, task = self.exc, self.task
        if task is not None:  # it never left this process
            attach_task_traceback(exc, format_task_traceback(exc, *task))
            label_with_task(exc, index, task)
        return exc


def _load_failed(data):
    return Failed(decode_exception(data))
