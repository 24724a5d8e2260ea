"""The settings in force: what `parallel_config` sets and what tasks start from.

One ContextVar holds an immutable `ConfigState`. Beside it each thread has a fallback,
for settings made outside a ``with`` block: notebooks run every cell in another
Context, where a ContextVar set in an earlier cell is lost.

    current()  =  the ContextVar  or  the thread's fallback  or  the process's base

Guarantees:
- A ``with`` block changes the ContextVar only, so other asyncio tasks of the same
  thread do not see it, and neither do other threads.
- A task sees its nesting level and nothing else of what its caller has set.
- In a worker process, threads that a task starts see the worker's nesting level.

This lives in core because backends must set a task's nesting level and may not import
`cypar.config`, which holds the functions for users.
"""

from __future__ import annotations

import threading
from contextvars import Context, ContextVar, copy_context

TYPE_CHECKING = False  # `typing` is slow to import; type checkers know this name
if TYPE_CHECKING:
    from typing import Any


class _Unset:
    """Marks a field that no context has set, where None already means something."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<unset>"

    def __reduce__(self) -> str:
        return "UNSET"


UNSET: Any = _Unset()


class ConfigState:
    """What the contexts around a call have set; None or UNSET where they have not.

    Parameters
    ----------
    nesting_level : int, default=0
        0 in the main program, 1 inside a task, 2 inside a task of that task.
    **fields
        ``backend`` is the name of a built-in backend or a backend object; the others
        are as in `cypar.parallel_config`, already checked and parsed.

    Notes
    -----
    Immutable, hence safe to share between threads. ``merged`` is a cache that belongs
    to `cypar.config`: this state with every unset field filled in.
    """

    __slots__ = (
        "backend",
        "backend_params",
        "inner_max_num_threads",
        "max_nbytes",
        "merged",
        "mmap_mode",
        "n_jobs",
        "nesting_level",
        "on_error",
        "prefer",
        "require",
        "retries",
        "temp_folder",
        "verbose",
    )

    if TYPE_CHECKING:
        backend: Any
        backend_params: Any
        inner_max_num_threads: int | None
        max_nbytes: Any
        merged: Any
        mmap_mode: Any
        n_jobs: int | None
        nesting_level: int
        on_error: str | None
        prefer: str | None
        require: str | None
        retries: int | None
        temp_folder: str | None
        verbose: Any

    def __init__(self, nesting_level: int = 0, **fields: Any) -> None:
        write = object.__setattr__
        for name in self.__slots__:
            write(self, name, None)
        write(self, "max_nbytes", UNSET)
        write(self, "mmap_mode", UNSET)
        write(self, "nesting_level", nesting_level)
        for name, value in fields.items():
            write(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"a ConfigState cannot be changed (tried to set {name!r}): use replace()"
        )

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __repr__(self) -> str:
        fields = ", ".join(
            f"{name}={value!r}"
            for name, value in self._fields().items()
            if value is not getattr(BLANK, name)
        )
        return f"ConfigState({fields})"

    def _fields(self) -> dict[str, Any]:
        names = (name for name in self.__slots__ if name != "merged")
        return {name: getattr(self, name) for name in names}

    def replace(self, **changes: Any) -> ConfigState:
        """Return a copy with some fields changed."""
        return ConfigState(**{**self._fields(), **changes})

    def overlay(self, **changes: Any) -> ConfigState:
        """Return a copy with those fields changed that are neither None nor UNSET.

        ``max_nbytes`` and ``mmap_mode`` may be set to None, which turns memory
        mapping off.
        """
        return self.replace(
            **{
                name: value
                for name, value in changes.items()
                if value is not UNSET
                and (value is not None or name in ("max_nbytes", "mmap_mode"))
            }
        )


class _PerThread(threading.local):
    state: ConfigState | None = None


BLANK = ConfigState()
_task_states = [BLANK]  # by nesting level
_active: ContextVar[ConfigState | None] = ContextVar("cypar_config", default=None)
_fallback = _PerThread()
_base = BLANK  # what holds where nothing is set; a worker process replaces it


def current() -> ConfigState:
    """Return the settings in force here."""
    return _active.get() or _fallback.state or _base


def in_context() -> bool:
    """Tell whether the settings in force are those of a ``with`` block or a task."""
    return _active.get() is not None


def swap(state: ConfigState | None, *, in_context: bool) -> ConfigState | None:
    """Set the ContextVar or this thread's fallback and return the old value.

    The old value is put back with another swap, never with ``ContextVar.reset``, which
    raises in another Context than that of the set, as between two notebook cells.
    """
    if in_context:
        old = _active.get()
        _active.set(state)
    else:
        old = _fallback.state
        _fallback.state = state
    return old


def task_state(
    nesting_level: int, backend: object = None, n_jobs: int | None = None
) -> ConfigState:
    """Return the settings that a task starts from.

    Parameters
    ----------
    nesting_level : int
        Level of the task, at least 1.
    backend, n_jobs
        Given by foreign backends that choose what their tasks' own calls run on.
    """
    if backend is None and n_jobs is None:
        while len(_task_states) <= nesting_level:  # a race appends an equal state
            _task_states.append(ConfigState(len(_task_states)))
        return _task_states[nesting_level]
    return ConfigState(nesting_level, backend=backend, n_jobs=n_jobs)


def task_context(state: ConfigState) -> Context:
    """Return a copy of the caller's context in which ``state`` is in force.

    Tasks on threads run in it: they see the caller's context variables, but of its
    settings only what `task_state` kept.
    """
    context = copy_context()
    context.run(_active.set, state)
    return context


def caller_context() -> Context:
    """Return a copy of the caller's context, with its settings wherever they are held.

    Any thread may advance the user's iterator in it.
    """
    context = copy_context()
    state = current()
    if state is not BLANK:
        context.run(_active.set, state)
    return context


def in_worker_process() -> bool:
    """Tell whether `become_worker` was called in this process."""
    return _base is not BLANK


def become_worker(nesting_level: int) -> None:
    """Make ``nesting_level`` hold in all threads of this worker process.

    It also drops what this thread has set: a forked worker inherits its parent's
    settings, and a task may have left some behind.
    """
    global _base
    _base = task_state(nesting_level)
    _active.set(None)
    _fallback.state = None
