from collections.abc import Callable
from typing import Any

from cypar.core._status_page import StatusPage

class BatchRunner:
    def __init__(
        self,
        page: StatusPage,
        dumps: Callable[[Any], bytes | tuple[bytes, list[tuple[int, Any]]]],
        encode_error: Callable[[BaseException, Any, Any, Any], bytes | None],
        flush: Callable[[], object],
        send: Callable[[int, int, int, bytes, float, Any], object],
    ) -> None: ...
    def leave_after_task(self) -> None: ...
    def run_columns(
        self,
        slot: int,
        sequence: int,
        function: Callable[..., Any],
        columns: list[tuple[Any, ...]],
    ) -> None: ...
    def run_tasks(
        self,
        slot: int,
        sequence: int,
        load: Callable[
            [int], tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
        ],
        let_go: Callable[[], object] | None = None,
    ) -> None: ...
