from collections.abc import Callable, Iterator
from typing import Any

from cypar.core._helper_threads import Parker
from cypar.core._task_queue import Call

def is_worker_thread() -> bool: ...
def work(call: Call, parker: Parker) -> None: ...
def run_serial(
    iterator: Iterator[Any],
    results: list[Any],
    hook: Callable[[], object] | None,
    keep_errors: bool = False,
) -> list[Any]: ...
def call_serial(task: tuple[Any, ...], index: int, keep_errors: bool) -> Any: ...
