from typing import Any

MISSING: object
ROOT: object

class Watch:
    payload: Any
    def __init__(
        self,
        owner: object,
        is_weak: bool,
        functions: tuple[Any, ...],
        cells: tuple[Any, ...],
        names: tuple[Any, ...],
        sizes: tuple[Any, ...],
        payload: Any,
    ) -> None: ...
    def holds(self, function: object) -> bool: ...
