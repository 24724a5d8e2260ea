"""Which backend a name or an object stands for.

Built-in backends are imported on first use and shared by all calls. Whatever else a
user hands over becomes a `cypar.backends.base.Backend` here:

    name of a registered factory   the factory is called, and its result is looked at
    has run(call)                  a Backend already
    has submit or apply_async      written for joblib's interface -> ForeignBackend
    has submit, map and shutdown   an executor                    -> ExecutorAdapter
    has get_context and Pool       multiprocessing or a context   -> the same-named one
"""

from __future__ import annotations

import os
import sys
import warnings

from cypar.core.errors import CyparWarning
from cypar.core.late_import import late_import

TYPE_CHECKING = False  # `typing` is slow to import; type checkers know this name
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


class BuiltinFactory:
    """Import a backend of cypar's own on the first call; return one shared object."""

    __slots__ = ("class_name", "fallback", "instance", "module")

    def __init__(self, module: str, class_name: str, fallback: str | None) -> None:
        self.module = module
        self.class_name = class_name
        self.fallback = fallback  # the name used instead where processes are off
        self.instance: Any = None

    def __call__(self, nesting_level: int | None = None) -> Any:
        """Return the shared backend; it works on every nesting level."""
        if self.instance is None:
            self.instance = self.load()()
        return self.instance

    def load(self) -> Any:
        """Import and return the class."""
        return late_import(self.module, self.class_name)

    def __repr__(self) -> str:
        return f"<built-in backend {self.module}.{self.class_name}>"


DEFAULT_PROCESS_BACKEND = "processes"
DEFAULT_THREAD_BACKEND = "threading"
default_name = DEFAULT_PROCESS_BACKEND  # register_parallel_backend may change it

_PROCESSES = BuiltinFactory(
    "cypar.backends.processes", "ProcessBackend", DEFAULT_THREAD_BACKEND
)
_THREADS = BuiltinFactory("cypar.backends.threads", "ThreadBackend", None)
_MULTIPROCESSING = BuiltinFactory(
    "cypar.backends.multiprocessing", "MultiprocessingBackend", DEFAULT_THREAD_BACKEND
)

BACKENDS: dict[str, Callable[..., Any]] = {
    "processes": _PROCESSES,
    "loky": _PROCESSES,
    "threading": _THREADS,
    "threads": _THREADS,
    "multiprocessing": _MULTIPROCESSING,
    "sequential": BuiltinFactory(
        "cypar.backends.sequential", "SequentialBackend", None
    ),
}


def processes_allowed() -> bool:
    """Tell whether this platform has processes and the environment allows them."""
    if sys.platform in ("emscripten", "wasi"):
        return False
    for name in ("CYPAR_MULTIPROCESSING", "JOBLIB_MULTIPROCESSING"):
        value = os.environ.get(name, "").strip()
        if value:
            return value != "0"
    return True


_processes_allowed: bool | None = None  # read once, when the first backend is asked for


def builtin(name: str, *, asked_for: bool) -> Any:
    """Return a built-in backend, or threads where processes are off.

    Parameters
    ----------
    name : str
        A name in BACKENDS.
    asked_for : bool
        The user wrote this name: if another backend must do instead, say so.
    """
    global _processes_allowed
    factory = BACKENDS[name]
    if needs_processes(name):
        fallback = factory.fallback  # type: ignore[attr-defined]
        if _processes_allowed is None:
            _processes_allowed = processes_allowed()
        if not _processes_allowed:
            if asked_for:
                warnings.warn(
                    f"backend {name!r} needs processes, which this platform lacks or "
                    f"JOBLIB_MULTIPROCESSING=0 turns off: using {fallback!r}",
                    CyparWarning,
                    stacklevel=5,
                )
            factory = BACKENDS[fallback]
    return factory()


def is_builtin(spec: object) -> bool:
    """Tell whether ``spec`` names a backend of cypar's own."""
    return isinstance(spec, str) and isinstance(BACKENDS.get(spec), BuiltinFactory)


def needs_processes(name: str) -> bool:
    """Tell whether ``name`` is a built-in backend of worker processes."""
    return getattr(BACKENDS[name], "fallback", None) is not None


def check_name(name: str, origin: str = "backend") -> None:
    """Raise ValueError, listing the valid names, if no backend has this one."""
    if name not in BACKENDS:
        known = ", ".join(repr(known) for known in sorted(BACKENDS))
        raise ValueError(
            f"{origin}={name!r} is no known backend: expected one of {known}, or a "
            "name given to register_parallel_backend"
        )


def build(
    spec: Any,
    nesting_level: int,
    params: Mapping[str, Any] | None = None,
    *,
    from_context: bool = False,
    inner_max_num_threads: int | None = None,
) -> Any:
    """Return the Backend that ``spec`` stands for.

    Parameters
    ----------
    spec : str or object
        See the table at the top of this file.
    nesting_level : int
        Of the code that asks; given to factories and objects that know of it.
    params : mapping, optional
        Parameters for the factory. Built-in backends get theirs with each call; here
        their names are checked.
    from_context : bool
        A context asks, not `Parallel`. A factory of ``**params`` then gets nothing
        that the user did not write.
    inner_max_num_threads : int, optional
        Given together with a backend that is not cypar's own: the backend must know
        of it. Backends of cypar get it with each call.

    Raises
    ------
    ValueError
        If the name is unknown, parameters come with an object, or the backend cannot
        limit the threads of its tasks.
    TypeError
        If the object is nothing that can run tasks.
    """
    if not isinstance(spec, str):
        if params:
            raise ValueError(
                f"parameters {', '.join(map(repr, params))} came with a backend "
                "object: they are for backends given by name, set them on the object"
            )
        return _wrap(spec, nesting_level, inner_max_num_threads, "backend")
    check_name(spec)
    if is_builtin(spec):
        backend = builtin(spec, asked_for=True)
        _check_params(backend, spec, params)
        return backend
    factory = BACKENDS[spec]
    arguments = dict(params or {})
    if "nesting_level" not in arguments and _accepts_nesting_level(
        factory, by_kwargs=not from_context
    ):
        arguments["nesting_level"] = nesting_level
    made = factory(**arguments)
    origin = f"what the factory of {spec!r} returned"
    return _wrap(made, nesting_level, inner_max_num_threads, origin)


def _check_params(backend: Any, name: str, params: Mapping[str, Any] | None) -> None:
    """Refuse misspelt parameters; a backend lists those it takes in param_names."""
    check_params(backend, name, params)
    if params and hasattr(backend, "parse_params"):
        backend.parse_params(params)  # wrong values fail here, not at the call


def check_params(backend: Any, name: str, params: Mapping[str, Any] | None) -> None:
    """Raise ValueError for parameters that a backend does not have."""
    known = getattr(backend, "param_names", ())
    unknown = [param for param in params or () if param not in known]
    if unknown:
        expected = ", ".join(map(repr, known)) or "none"
        raise ValueError(
            f"backend {name!r} has no parameter {', '.join(map(repr, unknown))}: "
            f"expected {expected}"
        )


def _accepts_nesting_level(factory: Callable[..., Any], *, by_kwargs: bool) -> bool:
    """Tell whether a factory takes ``nesting_level``, by name or in its **kwargs."""
    import inspect  # slow to import, and only registered factories need it

    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some C callables have no signature
        return False
    return any(
        p.kind is not p.POSITIONAL_ONLY
        if p.name == "nesting_level"
        else p.kind is p.VAR_KEYWORD and by_kwargs
        for p in parameters
    )


def _wrap(obj: Any, nesting_level: int, inner: int | None, origin: str) -> Any:
    """Return ``obj`` as a Backend, whatever interface it was written for."""

    def has(*names: str) -> bool:
        return all(callable(getattr(obj, name, None)) for name in names)

    if not isinstance(obj, type):
        if has("run", "effective_n_jobs"):
            return obj
        submits = has("submit") or has("apply_async")
        if submits and (has("configure") or has("effective_n_jobs")):
            _tell(obj, nesting_level, inner)
            return _adapter("ForeignBackend")(obj)
        if has("submit", "map", "shutdown"):
            _refuse_limit(obj, inner)
            return _adapter("ExecutorAdapter")(obj)
        if has("get_context", "Pool"):
            return _MULTIPROCESSING.load()(context=obj)
    hint = " (a class: give an instance of it)" if isinstance(obj, type) else ""
    raise TypeError(
        f"{origin} is a {type(obj).__name__}{hint}: expected a name, an object with "
        "joblib's backend methods, a concurrent.futures.Executor or a multiprocessing "
        "context"
    )


def _adapter(class_name: str) -> Any:
    return late_import("cypar.backends.foreign", class_name)


def _tell(obj: Any, nesting_level: int, inner: int | None) -> None:
    """Set on a joblib-style backend what such backends read from themselves."""
    if inner is not None:
        if not getattr(obj, "supports_inner_max_num_threads", False):
            _refuse_limit(obj, inner)
        obj.inner_max_num_threads = inner
    if getattr(obj, "nesting_level", None) is None:
        try:
            obj.nesting_level = nesting_level
        except AttributeError:
            pass  # an object with __slots__ that has no use for it


def _refuse_limit(obj: Any, inner: int | None) -> None:
    if inner is not None:
        raise ValueError(
            f"a {type(obj).__name__} cannot limit the threads inside its tasks, got "
            f"inner_max_num_threads={inner}: leave it out, or set the limit in the "
            "tasks themselves"
        )
