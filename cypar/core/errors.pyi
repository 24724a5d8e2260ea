import multiprocessing
import pickle

class CyparError(Exception): ...
class CyparWarning(UserWarning): ...

class WorkerCrash(CyparError, RuntimeError):
    task_index: int | None
    function: str | None
    exitcode: int | None
    attempts: int
    def __init__(
        self,
        message: str,
        task_index: int | None = None,
        function: str | None = None,
        exitcode: int | None = None,
        attempts: int = 1,
    ) -> None: ...

class KernelError(CyparError, RuntimeError):
    result: float | None
    row: int | None
    def __init__(
        self, message: str, result: float | None = None, row: int | None = None
    ) -> None: ...

class RegionCancelled(CyparError, RuntimeError): ...
class PoolStartError(CyparError, RuntimeError): ...
class BadFileError(CyparError, ValueError): ...

class RemoteError(CyparError):
    type_name: str
    def __init__(self, message: str, type_name: str = "Exception") -> None: ...

class TaskTraceback(CyparError): ...

# Also a concurrent.futures.TimeoutError, which is the builtin one from 3.11 on.
class TaskTimeout(CyparError, multiprocessing.TimeoutError, TimeoutError):
    task_index: int | None

class TaskPicklingError(CyparError, pickle.PicklingError): ...

def timeout_error(index: int, timeout_s: float) -> TaskTimeout: ...
