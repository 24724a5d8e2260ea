from collections.abc import Callable
from typing import Any

class Capture:
    def __init__(
        self,
        table: Any,
        dumps: Callable[[Any], bytes],
        explain: Callable[..., BaseException],
        memory: Any = None,
    ) -> None: ...
    def __call__(self, index: int, task: tuple[Any, ...]) -> tuple[Any, Any]: ...

def columns_of(tasks: list[Any]) -> list[tuple[Any, ...]] | None: ...
def table_of(
    tasks: list[Any], function_id: Callable[[Any], int], outbox: Any = None
) -> list[bytes]: ...
