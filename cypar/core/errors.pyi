import multiprocessing
import pickle
from collections.abc import Iterable, Mapping
from typing import Any, Literal

class CyparError(Exception): ...
class CyparWarning(UserWarning): ...

class WorkerCrash(CyparError, RuntimeError):
    task_index: int | None
    function: str | None
    exitcode: int | None
    attempts: int
    arguments: str | None
    def __init__(
        self,
        message: str,
        task_index: int | None = None,
        function: str | None = None,
        exitcode: int | None = None,
        attempts: int = 1,
        arguments: str | None = None,
    ) -> None: ...

class NoProgressError(CyparError, RuntimeError): ...

class KernelError(CyparError, RuntimeError):
    result: float | None
    row: int | None
    def __init__(
        self, message: str, result: float | None = None, row: int | None = None
    ) -> None: ...

class RegionCancelled(CyparError, RuntimeError): ...
class PoolStartError(CyparError, RuntimeError): ...
class InitializerError(CyparError, RuntimeError): ...
class BadFileError(CyparError, ValueError): ...

class RemoteError(CyparError):
    type_name: str
    def __init__(self, message: str, type_name: str = "Exception") -> None: ...

class TaskTraceback(CyparError): ...

class TaskError(CyparError, RuntimeError):
    index: int
    kind: Literal["exception", "crash", "timeout", "pickling"]
    exception: BaseException
    function: str | None
    arguments: str | None
    attempts: int
    def __init__(
        self,
        index: int,
        kind: str,
        exception: BaseException,
        function: str | None = None,
        arguments: str | None = None,
        attempts: int = 1,
    ) -> None: ...
    @property
    def traceback(self) -> str: ...
    def __bool__(self) -> Literal[False]: ...

class Completed(dict[int, Any]): ...

def label(
    exc: BaseException,
    index: int | None,
    function: str | None = None,
    arguments: str | None = None,
) -> None: ...
def attach_completed(
    exc: BaseException, results: Iterable[tuple[int, Any]] | Mapping[int, Any]
) -> None: ...

# Also a concurrent.futures.TimeoutError, which is the builtin one from 3.11 on.
class TaskTimeout(CyparError, multiprocessing.TimeoutError, TimeoutError):
    task_index: int | None
    task_function: str | None
    task_arguments: str | None

class TaskPicklingError(CyparError, pickle.PicklingError): ...

def timeout_error(index: int, timeout_s: float) -> TaskTimeout: ...
