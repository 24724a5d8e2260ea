"""Set backend and options from outside a call, and find out what holds for a call.

What counts, first to last:

    argument of Parallel > innermost context > set_config > CYPAR_* variables > default

The first and the last of these are `cypar.resolution`'s; the state of the contexts is
in `cypar.core.config_state`, and the table of backends in `cypar.backends.registry`.
"""

from __future__ import annotations

import os

from cypar import arguments
from cypar.backends import registry
from cypar.core import config_state
from cypar.core.config_state import UNSET, ConfigState

TYPE_CHECKING = False  # `typing` is slow to import; type checkers know this name
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

BACKENDS = registry.BACKENDS  # name -> factory; DEFAULT_BACKEND: see __getattr__

_PARSERS: dict[str, Callable[[Any], Any]] = {
    "n_jobs": arguments.parse_n_jobs,
    "verbose": arguments.parse_verbose,
    "temp_folder": arguments.parse_temp_folder,
    "max_nbytes": arguments.parse_max_nbytes,
    "mmap_mode": arguments.check_mmap_mode,
    "prefer": arguments.check_prefer,
    "require": arguments.check_require,
    "inner_max_num_threads": arguments.parse_inner_max_num_threads,
    "on_error": arguments.check_on_error,
    "retries": arguments.parse_retries,
}

_process_defaults: ConfigState | None = None  # set_config's; None: not looked at yet


class parallel_config:
    """Set options for all `Parallel` calls inside a ``with`` block.

    It is the way to reach calls inside a library that does not offer these options
    itself. What a call gives explicitly wins over the block; an inner block wins over
    an outer one and keeps what it does not set. None means "not set here".

    The settings hold from the construction on, so that a plain function call sets
    them for the rest of the current thread. Other threads, and other asyncio tasks in
    case of a ``with`` block, do not see them; neither do the tasks of a call.

    Parameters
    ----------
    backend : str or object, optional
        ``'processes'`` (also called ``'loky'``), ``'threading'`` (``'threads'``),
        ``'multiprocessing'``, ``'sequential'`` or a registered name; a backend object;
        a `concurrent.futures.Executor`; or a multiprocessing context.
    n_jobs : int, optional
        Maximum number of tasks that run at once; -1 means all CPUs.
    verbose : int, optional
        How often progress is printed; 0 is silent.
    temp_folder : path, optional
        Folder for the files of memory-mapped arrays.
    max_nbytes : int, str or None, optional
        Arrays larger than this are memory-mapped for worker processes: a number of
        bytes, or a string such as ``'1M'``. None maps no arrays.
    mmap_mode : {'r', 'r+', 'w+', 'c', None}, optional
        How workers see these arrays. None maps no arrays.
    prefer : {'processes', 'threads'}, optional
        Which kind of backend to take where nothing has chosen one.
    require : {'sharedmem'}, optional
        Take threads, unless the chosen backend shares memory with its tasks anyway.
    inner_max_num_threads : int, optional
        How many threads BLAS and OpenMP may use inside one task.
    on_error : {'raise', 'return'}, optional
        Whether the first failure ends a call, or a `TaskError` stands for each result
        that is missing.
    retries : int, optional
        How often a task is started again after its worker process died.
    **backend_params
        Parameters for the backend, where it is given by name.

    Raises
    ------
    ValueError
        If a value is not one of those above, the name is unknown, or parameters come
        with a backend object.

    Examples
    --------
    >>> from operator import neg
    >>> from cypar import Parallel, delayed, parallel_config
    >>> with parallel_config(backend='threading', n_jobs=2):
    ...     print(Parallel()(delayed(neg)(i + 1) for i in range(5)))
    [-1, -2, -3, -4, -5]
    """

    def __init__(
        self,
        backend: Any = None,
        *,
        n_jobs: int | None = None,
        verbose: float | None = None,
        temp_folder: Any = None,
        max_nbytes: int | float | str | None = UNSET,
        mmap_mode: str | None = UNSET,
        prefer: str | None = None,
        require: str | None = None,
        inner_max_num_threads: int | None = None,
        on_error: str | None = None,
        retries: int | None = None,
        **backend_params: Any,
    ) -> None:
        fields = _parsed(
            n_jobs=n_jobs,
            verbose=verbose,
            temp_folder=temp_folder,
            max_nbytes=max_nbytes,
            mmap_mode=mmap_mode,
            prefer=prefer,
            require=require,
            inner_max_num_threads=inner_max_num_threads,
            on_error=on_error,
            retries=retries,
        )
        outer = config_state.current()
        if backend is not None:
            fields |= _chosen_backend(
                backend, outer, fields["inner_max_num_threads"], backend_params
            )
        elif backend_params:
            names = ", ".join(map(repr, backend_params))
            raise ValueError(
                f"{type(self).__name__} has no option {names}: if the backend has one, "
                "give the backend too"
            )
        self._state = outer.overlay(**fields)
        self._applied = False
        self._apply(in_context=config_state.in_context())

    def _apply(self, *, in_context: bool) -> None:
        self._in_context = in_context
        self._outer = config_state.swap(self._state, in_context=in_context)
        self._applied = True

    def __enter__(self) -> Any:
        # From here on the settings belong to the block, not to the whole thread.
        self.unregister()
        self._apply(in_context=True)
        return self._state

    def __exit__(self, *exc_info: object) -> None:
        self.unregister()

    def unregister(self) -> None:
        """Put back what held before; needed only outside a ``with`` block."""
        if not self._applied:
            return
        self._applied = False
        # In another Context than that of the block there is nothing to put back.
        if not self._in_context or config_state.in_context():
            config_state.swap(self._outer, in_context=self._in_context)
        self._outer = None


class parallel_backend(parallel_config):
    """Choose the backend of all `Parallel` calls inside a ``with`` block.

    Like `parallel_config`, but all CPUs are used unless ``n_jobs`` or the call says
    otherwise, and the block gives ``(backend, n_jobs)``.

    Parameters
    ----------
    backend : str or object
        See `parallel_config`.
    n_jobs : int, default=-1
    inner_max_num_threads : int, optional
    **backend_params
        Parameters for the backend, where it is given by name.

    Examples
    --------
    >>> from operator import neg
    >>> from cypar import Parallel, delayed, parallel_backend
    >>> with parallel_backend('threading'):
    ...     print(Parallel()(delayed(neg)(i + 1) for i in range(5)))
    [-1, -2, -3, -4, -5]
    """

    def __init__(
        self,
        backend: Any,
        n_jobs: int | None = -1,
        inner_max_num_threads: int | None = None,
        **backend_params: Any,
    ) -> None:
        super().__init__(
            backend,
            n_jobs=n_jobs,
            inner_max_num_threads=inner_max_num_threads,
            **backend_params,
        )

    def __enter__(self) -> tuple[Any, int | None]:
        state = super().__enter__()
        backend = state.backend
        if isinstance(backend, str):
            backend = registry.builtin(backend, asked_for=True)
        return backend, state.n_jobs


def set_config(
    *,
    backend: Any = UNSET,
    n_jobs: int | None = UNSET,
    verbose: float | None = UNSET,
    temp_folder: Any = UNSET,
    max_nbytes: int | float | str | None = UNSET,
    mmap_mode: str | None = UNSET,
    prefer: str | None = UNSET,
    require: str | None = UNSET,
    inner_max_num_threads: int | None = UNSET,
    on_error: str | None = UNSET,
    retries: int | None = UNSET,
) -> None:
    """Set defaults for the whole process, all threads included.

    They come after the arguments of a call and after `parallel_config`, and before
    the environment variables CYPAR_BACKEND and CYPAR_N_JOBS. Calls made inside tasks
    take over none of backend, n_jobs, verbose, prefer, require, on_error and retries.

    Parameters
    ----------
    backend, n_jobs, verbose, temp_folder, prefer, require, inner_max_num_threads, \
on_error, retries
        As in `parallel_config`; None goes back to cypar's own default.
    max_nbytes, mmap_mode
        As in `parallel_config`.

    Examples
    --------
    >>> from cypar import set_config
    >>> set_config(backend='threading', n_jobs=2)
    >>> set_config(backend=None, n_jobs=None)
    """
    global _process_defaults
    fields = _parsed(
        n_jobs=n_jobs,
        verbose=verbose,
        temp_folder=temp_folder,
        max_nbytes=max_nbytes,
        mmap_mode=mmap_mode,
        prefer=prefer,
        require=require,
        inner_max_num_threads=inner_max_num_threads,
        on_error=on_error,
        retries=retries,
    )
    if backend is None:
        fields["backend"] = None
    elif backend is not UNSET:
        inner = fields["inner_max_num_threads"]
        inner = None if inner is UNSET else inner
        fields |= _chosen_backend(backend, config_state.BLANK, inner, {})
    given = {name: value for name, value in fields.items() if value is not UNSET}
    _process_defaults = process_defaults().replace(**given)


def process_defaults() -> ConfigState:
    """Return what `set_config` has set, or else the environment."""
    global _process_defaults
    if _process_defaults is None:
        _process_defaults = _from_environment()
    return _process_defaults


def register_parallel_backend(
    name: str, factory: Callable[..., Any], make_default: bool = False
) -> None:
    """Make a backend of your own known by a name (experimental).

    Parameters
    ----------
    name : str
        What `Parallel`, `parallel_config` and `parallel_backend` then accept.
    factory : callable
        Returns a backend object, such as an instance of a subclass of
        `ParallelBackendBase`; often the class itself. It is called with
        ``nesting_level=`` if it takes that, and with the parameters that came with
        the name.
    make_default : bool, default=False
        Take this backend wherever none is chosen.

    Raises
    ------
    TypeError
        If the name is no string or the factory cannot be called.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {arguments.shown(name)}")
    if not callable(factory):
        raise TypeError(
            f"factory must be a callable that returns a backend, got "
            f"{arguments.shown(factory)}: to use one object, register "
            "`lambda: the_object`"
        )
    registry.BACKENDS[name] = factory
    if make_default:
        registry.default_name = name


def _parsed(**values: Any) -> dict[str, Any]:
    """Check the options given in one place, and that they fit together."""
    fields = {
        name: value if value is None or value is UNSET else _PARSERS[name](value)
        for name, value in values.items()
    }
    arguments.check_hints(fields["prefer"], fields["require"])
    return fields


def _chosen_backend(
    spec: Any,
    outer: ConfigState,
    inner_max_num_threads: int | None,
    params: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the fields of a state that a chosen backend sets.

    Built-in backends stay names, so that choosing one imports nothing. The others are
    built here, once for all calls under this choice.
    """
    if registry.is_builtin(spec) and not params:
        return {"backend": spec, "backend_params": {}}
    backend = registry.build(
        spec,
        outer.nesting_level,
        params,
        from_context=True,
        inner_max_num_threads=inner_max_num_threads,
    )
    if registry.is_builtin(spec):
        return {"backend": spec, "backend_params": dict(params)}
    return {"backend": backend, "backend_params": {}}


def _from_environment() -> ConfigState:
    fields: dict[str, Any] = {}
    if config_state.in_worker_process():  # the variables were meant for the program
        return ConfigState()
    n_jobs = os.environ.get("CYPAR_N_JOBS", "").strip()
    if n_jobs:
        try:
            fields["n_jobs"] = arguments.parse_n_jobs(n_jobs)
        except ValueError as error:
            raise ValueError(f"environment variable CYPAR_N_JOBS: {error}") from None
    backend = os.environ.get("CYPAR_BACKEND", "").strip()
    if backend:
        registry.check_name(backend, origin="environment variable CYPAR_BACKEND")
        fields |= _chosen_backend(backend, config_state.BLANK, None, {})
    return ConfigState(**fields)


def __getattr__(name: str) -> Any:
    if name == "DEFAULT_BACKEND":  # a name that changes, so it is looked up each time
        chosen = process_defaults().backend
        return chosen if isinstance(chosen, str) else registry.default_name
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
