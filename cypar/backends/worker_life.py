"""How workers begin and when they are replaced: what users may ask of processes."""

from __future__ import annotations

from cypar.core.sizes import parse_size

PARAMETERS = ("initializer", "initargs", "max_tasks_per_worker", "max_worker_memory")


class WorkerLife:
    """What a call asks of the life of its worker processes; never changed.

    Attributes
    ----------
    initializer : callable or None
        Called in a new worker before any task.
    initargs : tuple
    max_tasks : int or None
        Tasks that a worker may run before it is replaced.
    max_bytes : int or None
        Memory of its own at which it is replaced.
    """

    __slots__ = ("initargs", "initializer", "max_bytes", "max_tasks")

    def __init__(
        self,
        initializer=None,
        initargs=(),
        max_tasks_per_worker=None,
        max_worker_memory=None,
    ):
        if initializer is not None and not callable(initializer):
            raise ValueError(
                f"initializer must be a function or None, got {initializer!r}"
            )
        if isinstance(initargs, str):
            initargs = None
        try:
            self.initargs = tuple(initargs)
        except TypeError:
            raise ValueError(
                "initargs must be a tuple of arguments for the initializer, got "
                f"{initargs!r}"
            ) from None
        if self.initargs and initializer is None:
            raise ValueError(
                f"initargs={initargs!r} came without an initializer: give it, too"
            )
        self.initializer = initializer
        self.max_tasks = _parse_max_tasks(max_tasks_per_worker)
        self.max_bytes = _parse_memory(max_worker_memory)

    @property
    def is_limited(self):
        """Whether workers may have to be replaced."""
        return self.max_tasks is not None or self.max_bytes is not None

    def room(self, worker, n):
        """Return how many of ``n`` tasks a worker may still be sent."""
        return n if self.max_tasks is None else min(n, self.max_tasks - worker.n_tasks)

    def is_used_up(self, worker):
        """Whether a worker has been sent all tasks that it may run."""
        return self.max_tasks is not None and worker.n_tasks >= self.max_tasks


def _parse_max_tasks(value):
    if value is None:
        return None
    if isinstance(value, bool) or not hasattr(type(value), "__index__") or value < 1:
        raise ValueError(
            f"max_tasks_per_worker must be an integer >= 1 or None, got {value!r}"
        )
    return value.__index__()


def _parse_memory(value):
    if value is None:
        return None
    number = None
    if isinstance(value, str):
        number = parse_size(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = value
    if number is None or not 0 < number < float("inf"):
        raise ValueError(
            "max_worker_memory must be a number of bytes > 0, a string such as "
            f"'500M' or '1.5G', or None for no limit; got {value!r}"
        )
    return int(number)


UNLIMITED = WorkerLife()
