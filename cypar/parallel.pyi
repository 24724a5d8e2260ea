from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from types import TracebackType
from typing import Any, Generic, Literal, Protocol, TypeAlias, overload

from typing_extensions import Self, TypeVar

_R = TypeVar("_R")
_R_co = TypeVar("_R_co", covariant=True)
_Stream: TypeAlias = Literal["generator", "generator_unordered"]
# What a call returns follows from return_as, so it is part of the type.
_As = TypeVar("_As", Literal["list"], _Stream, default=Literal["list"])

_Task: TypeAlias = tuple[Callable[..., _R], Iterable[Any], dict[str, Any]]
_Bytes: TypeAlias = float | str | None
_MmapMode: TypeAlias = Literal["r", "r+", "w+", "c"] | None
_Prefer: TypeAlias = Literal["processes", "threads"] | None
_Require: TypeAlias = Literal["sharedmem"] | None

class _Results(Iterator[_R_co], Protocol[_R_co]):
    def close(self) -> None: ...

class Parallel(Generic[_As]):
    n_jobs: int
    verbose: float
    timeout: float | None
    pre_dispatch: float | str
    batch_size: int | Literal["auto"]
    return_as: str
    return_generator: bool
    on_error: str
    retries: int
    @overload
    def __init__(
        self: Parallel[Literal["list"]],
        n_jobs: float | str | None = None,
        backend: Any = None,
        verbose: float = 0,
        timeout: float | None = None,
        pre_dispatch: float | str = "2 * n_jobs",
        batch_size: int | Literal["auto"] = "auto",
        temp_folder: str | PathLike[str] | None = None,
        max_nbytes: _Bytes = "1M",
        mmap_mode: _MmapMode = "r",
        prefer: _Prefer = None,
        require: _Require = None,
        *,
        return_as: Literal["list"] = "list",
        inner_max_num_threads: int | None = None,
        on_error: Literal["raise", "return"] = "raise",
        retries: int = 0,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        max_tasks_per_worker: int | None = None,
        max_worker_memory: float | str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: Parallel[_Stream],
        n_jobs: float | str | None = None,
        backend: Any = None,
        verbose: float = 0,
        timeout: float | None = None,
        pre_dispatch: float | str = "2 * n_jobs",
        batch_size: int | Literal["auto"] = "auto",
        temp_folder: str | PathLike[str] | None = None,
        max_nbytes: _Bytes = "1M",
        mmap_mode: _MmapMode = "r",
        prefer: _Prefer = None,
        require: _Require = None,
        *,
        return_as: _Stream,
        inner_max_num_threads: int | None = None,
        on_error: Literal["raise", "return"] = "raise",
        retries: int = 0,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        max_tasks_per_worker: int | None = None,
        max_worker_memory: float | str | None = None,
    ) -> None: ...
    @overload
    def __call__(
        self: Parallel[Literal["list"]], iterable: Iterable[_Task[_R]]
    ) -> list[_R]: ...
    @overload
    def __call__(
        self: Parallel[_Stream], iterable: Iterable[_Task[_R]]
    ) -> _Results[_R]: ...
    def warm_up(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def print_progress(self) -> None: ...
    def dispatch_next(self) -> None: ...
    @property
    def n_completed_tasks(self) -> int: ...
    @property
    def n_dispatched_tasks(self) -> int: ...
