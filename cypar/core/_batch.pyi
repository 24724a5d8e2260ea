from collections.abc import Callable
from typing import Any

from cypar.core._status_page import StatusPage
from cypar.core._task_queue import Outcomes

class Batch:
    @property
    def tasks(self) -> list[tuple[int, Any] | None]: ...
    @property
    def left(self) -> int: ...
    @property
    def n(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    def __init__(self, tasks: list[tuple[int, Any]]) -> None: ...
    def take_back(self, first: int, end: int) -> list[tuple[int, Any]]: ...
    def done(self, position: int, seconds: float) -> int: ...

def read_results(
    page: StatusPage,
    batches: list[Batch | None],
    outcomes: Outcomes,
    decode_error: Callable[[int, bytes], BaseException],
) -> list[Batch]: ...
def give(
    outcomes: Outcomes,
    index: int,
    kind: int,
    value: Any,
    decode_error: Callable[[int, bytes], BaseException],
) -> None: ...
