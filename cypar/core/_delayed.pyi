from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

class delayed(Generic[_P, _R]):
    def __init__(
        self, function: Callable[_P, _R], check_pickle: object = None
    ) -> None: ...
    def __call__(
        self, *args: _P.args, **kwargs: _P.kwargs
    ) -> tuple[Callable[_P, _R], tuple[Any, ...], dict[str, Any]]: ...
