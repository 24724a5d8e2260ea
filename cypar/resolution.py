"""Decide what one `Parallel` object runs on: `resolve`.

    argument of Parallel > innermost context > set_config > CYPAR_* variables > default

Where nothing has chosen a backend, the nesting level does: processes in the main
program (or threads, if preferred), threads inside a task, and no parallelism inside
the tasks of a task. A backend that a call or a context names is taken on every level.
"""

from __future__ import annotations

import sys

from cypar import arguments, config
from cypar.backends import registry
from cypar.core import config_state
from cypar.core.config_state import UNSET, ConfigState

TYPE_CHECKING = False  # `typing` is slow to import; type checkers know this name
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class _DefaultStr(str):
    __slots__ = ()


class _DefaultInt(int):
    __slots__ = ()


# Parallel's defaults. They equal the plain values and look like them, yet `is` tells
# them from the same value written by the user, which must win over a context.
VERBOSE = _DefaultInt(0)
MAX_NBYTES = _DefaultStr("1M")
MMAP_MODE = _DefaultStr("r")
ON_ERROR = _DefaultStr("raise")
RETRIES = _DefaultInt(0)

# In a task, these process-wide defaults do not hold: they were meant for the program.
_NOT_IN_TASKS = (
    "backend",
    "backend_params",
    "n_jobs",
    "on_error",
    "prefer",
    "require",
    "retries",
    "verbose",
)


class Resolved:
    """What holds for one `Parallel` object.

    Attributes
    ----------
    backend : Backend
    n_jobs : int
        As asked for, so -1 is possible; ``backend.effective_n_jobs`` makes it a count.
    verbose : int or float
    temp_folder : str or None
    max_nbytes : int or None
        Size in bytes above which arrays are mapped; None for never.
    mmap_mode : str or None
    prefer, require : str or None
    inner_max_num_threads : int or None
    on_error : str
    retries : int
    backend_params : mapping
        Parameters that a context gave for a built-in backend.
    nesting_level : int
        Of the caller; its tasks are one level deeper unless they run in the caller.
    """

    __slots__ = (
        "backend",
        "backend_params",
        "inner_max_num_threads",
        "max_nbytes",
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
        backend_params: Mapping[str, Any]
        inner_max_num_threads: int | None
        max_nbytes: int | None
        mmap_mode: str | None
        n_jobs: int
        nesting_level: int
        on_error: str
        prefer: str | None
        require: str | None
        retries: int
        temp_folder: str | None
        verbose: float


def resolve(
    backend: Any = None,
    n_jobs: Any = None,
    verbose: Any = VERBOSE,
    temp_folder: Any = None,
    max_nbytes: Any = MAX_NBYTES,
    mmap_mode: Any = MMAP_MODE,
    prefer: Any = None,
    require: Any = None,
    inner_max_num_threads: Any = None,
    on_error: Any = ON_ERROR,
    retries: Any = RETRIES,
) -> Resolved:
    """Return what holds for a call with these arguments, here and now.

    None means not given, except for those parameters whose default is a constant of
    this module, which then does.

    Raises
    ------
    ValueError
        If an argument has no meaning, or the backend does not share memory although
        ``require='sharedmem'`` was given with it.
    """
    state = _merged(config_state.current())
    if prefer is not None or require is not None:
        prefer = arguments.check_prefer(prefer)
        require = arguments.check_require(require)
        arguments.check_hints(prefer, require)
    call = Resolved()
    call.nesting_level = state.nesting_level
    call.verbose = (
        state.verbose if verbose is VERBOSE else arguments.parse_verbose(verbose)
    )
    call.prefer = state.prefer if prefer is None else prefer
    call.require = state.require if require is None else require
    if backend is None:
        call.backend = _active(state, call.prefer, call.require, call.verbose)
        call.backend_params = state.backend_params
    else:
        call.backend = registry.build(backend, state.nesting_level)
        call.backend_params = {}
        if require is not None and not _shares_memory(call.backend):
            raise ValueError(
                f"backend={arguments.shown(backend)} does not share memory with its "
                "tasks, which require='sharedmem' asks for: leave one of them out"
            )
    _set_n_jobs(call, n_jobs, state)
    _set_options(call, state, temp_folder, max_nbytes, mmap_mode, inner_max_num_threads)
    call.on_error = (
        state.on_error if on_error is ON_ERROR else arguments.check_on_error(on_error)
    )
    call.retries = (
        state.retries if retries is RETRIES else arguments.parse_retries(retries)
    )
    return call


def get_active_backend(
    prefer: str | None = None, require: str | None = None, verbose: Any = VERBOSE
) -> tuple[Any, int | None]:
    """Return what a `Parallel` without arguments would run on here.

    Parameters
    ----------
    prefer, require, verbose
        As in `Parallel`.

    Returns
    -------
    backend : Backend
    n_jobs : int or None
        What the contexts have set; None if nothing has.
    """
    call = resolve(prefer=prefer, require=require, verbose=verbose)
    return call.backend, _merged(config_state.current()).n_jobs


def worker_life(call: Resolved, **given: Any) -> Any:
    """Return what a call asks of the life of its workers; None for nothing.

    What is None was not given. The parameters of a context count where its backend
    has them.
    """
    params = {name: value for name, value in given.items() if value is not None}
    if params:
        registry.check_params(call.backend, _name_of(call.backend), params)
    elif not call.backend_params:
        return None
    parse = getattr(call.backend, "parse_params", None)
    return None if parse is None else parse({**call.backend_params, **params})


def _name_of(backend: Any) -> str:
    return str(getattr(backend, "name", None) or type(backend).__name__)


def effective_n_jobs(n_jobs: int | None = -1) -> int:
    """Return how many tasks would run at once here.

    Parameters
    ----------
    n_jobs : int or None, default=-1
        As in `Parallel`: -1 means all CPUs, None what the contexts have set, or 1.

    Returns
    -------
    int
        What the backend that is active here makes of it, at least 1.

    Examples
    --------
    >>> from cypar import effective_n_jobs, parallel_config
    >>> with parallel_config('threading', n_jobs=3):
    ...     effective_n_jobs(None), effective_n_jobs(2)
    (3, 2)
    """
    if n_jobs == 1:
        return 1
    call = resolve(n_jobs=n_jobs)
    return int(call.backend.effective_n_jobs(call.n_jobs))


def _merged(state: ConfigState) -> ConfigState:
    """Return ``state`` with nothing left unset that has a default.

    The result is kept on the state itself, so it lives no longer than the context.
    """
    defaults = config.process_defaults()
    cached = state.merged
    if cached is not None and cached[0] is defaults:
        return cached[1]  # type: ignore[no-any-return]
    if state.nesting_level:
        blank = {name: getattr(config_state.BLANK, name) for name in _NOT_IN_TASKS}
        base = defaults.replace(**blank)
    else:
        base = defaults
    own = {name: getattr(state, name) for name in state.__slots__ if name != "merged"}
    merged = base.overlay(**own)
    missing = {
        "verbose": 0 if merged.verbose is None else merged.verbose,
        "backend_params": merged.backend_params or {},
        "max_nbytes": (
            arguments.parse_max_nbytes(MAX_NBYTES)
            if merged.max_nbytes is UNSET
            else merged.max_nbytes
        ),
        "mmap_mode": "r" if merged.mmap_mode is UNSET else merged.mmap_mode,
        "on_error": merged.on_error or "raise",
        "retries": merged.retries or 0,
    }
    merged = merged.replace(**missing)
    object.__setattr__(state, "merged", (defaults, merged))
    return merged


def _active(
    state: ConfigState, prefer: str | None, require: str | None, verbose: float
) -> Any:
    """Return the backend of a call that names none."""
    sharedmem = require is not None
    if state.backend is None:
        return _default(state.nesting_level, prefer, sharedmem)
    chosen = state.backend
    if isinstance(chosen, str):
        chosen = registry.builtin(chosen, asked_for=True)
    if not sharedmem or _shares_memory(chosen):
        return chosen
    if verbose >= 10 and sys.stderr is not None:
        print(
            f"[Parallel]: threads are used, since require='sharedmem' and the backend "
            f"{getattr(chosen, 'name', chosen)!r} does not share memory.",
            file=sys.stderr,
        )
    return registry.builtin(registry.DEFAULT_THREAD_BACKEND, asked_for=False)


def _default(nesting_level: int, prefer: str | None, sharedmem: bool) -> Any:
    """Return the backend where neither the call nor a context has chosen one."""
    if nesting_level == 1:
        return registry.builtin(registry.DEFAULT_THREAD_BACKEND, asked_for=False)
    if nesting_level > 1:
        return registry.builtin("sequential", asked_for=False)
    name = registry.default_name
    threads_wanted = sharedmem or prefer == "threads"
    if threads_wanted and registry.needs_processes(name):
        name = registry.DEFAULT_THREAD_BACKEND
    if registry.is_builtin(name):
        backend = registry.builtin(name, asked_for=False)
    else:
        backend = registry.build(name, nesting_level)
    if sharedmem:
        if not _shares_memory(backend):
            return registry.builtin(registry.DEFAULT_THREAD_BACKEND, asked_for=False)
    elif prefer is not None:
        on_threads = getattr(backend, "uses_threads", _shares_memory(backend))
        if prefer == "threads" and not on_threads:
            return registry.builtin(registry.DEFAULT_THREAD_BACKEND, asked_for=False)
        if prefer == "processes" and on_threads:
            return registry.builtin(registry.DEFAULT_PROCESS_BACKEND, asked_for=False)
    return backend


def _shares_memory(backend: Any) -> bool:
    return bool(getattr(backend, "supports_sharedmem", False))


def _set_n_jobs(call: Resolved, n_jobs: Any, state: ConfigState) -> None:
    if n_jobs is None:
        n_jobs = state.n_jobs
        if n_jobs is None:
            n_jobs = getattr(call.backend, "default_n_jobs", 1)
            call.n_jobs = 1 if n_jobs is None else n_jobs
            return
    call.n_jobs = arguments.parse_n_jobs(n_jobs)


def _set_options(
    call: Resolved,
    state: ConfigState,
    temp_folder: Any,
    max_nbytes: Any,
    mmap_mode: Any,
    inner_max_num_threads: Any,
) -> None:
    """Take the options of process backends from the call, or else from the state."""
    call.temp_folder = (
        state.temp_folder
        if temp_folder is None
        else arguments.parse_temp_folder(temp_folder)
    )
    call.max_nbytes = (
        state.max_nbytes
        if max_nbytes is MAX_NBYTES
        else arguments.parse_max_nbytes(max_nbytes)
    )
    call.mmap_mode = (
        state.mmap_mode
        if mmap_mode is MMAP_MODE
        else arguments.check_mmap_mode(mmap_mode)
    )
    call.inner_max_num_threads = (
        state.inner_max_num_threads
        if inner_max_num_threads is None
        else arguments.parse_inner_max_num_threads(inner_max_num_threads)
    )
