from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal

from cypar.core._native_call import NativeKernel

class Kernel(NativeKernel):
    def __init__(
        self,
        source: str | ModuleType | object,
        name: str | None = None,
        *,
        signature: str | None = None,
        dtype: Any = None,
        errors: Literal["none", "negative", "exception"] = "none",
        lengths: Mapping[int, int] | Literal["auto"] = "auto",
    ) -> None: ...
    @property
    def errors(self) -> str: ...
    @property
    def lengths(self) -> dict[int, int]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    def map(
        self,
        *args: Any,
        out: Any = None,
        n_jobs: int = -1,
        grain: int | None = None,
    ) -> Any: ...
