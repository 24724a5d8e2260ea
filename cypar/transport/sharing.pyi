from typing import TypeVar

_T = TypeVar("_T")

def share(obj: _T) -> _T: ...
