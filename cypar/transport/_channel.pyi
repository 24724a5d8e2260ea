from collections.abc import Callable
from typing import Any, TypeAlias

_Buffer: TypeAlias = bytes | bytearray | memoryview
# type, slot, flags, number, seconds, payload; (payload, buffers) if buffers came too
_Frame: TypeAlias = tuple[int, int, int, int, float, Any]

AS_MEMORY: int
AS_BYTES: int
AS_BYTEARRAY: int

def socketpair() -> tuple[int, int]: ...

class Channel:
    @property
    def fd(self) -> int: ...
    @property
    def outgoing_bytes(self) -> int: ...
    allocate: Callable[[int], Any] | None
    def __init__(self, fd: int, waits: bool) -> None: ...
    def close(self) -> None: ...
    def send(
        self,
        type: int,
        slot: int = 0,
        flags: int = 0,
        number: int = 0,
        seconds: float = 0.0,
        *parts: _Buffer,
    ) -> None: ...
    def send_buffers(
        self,
        type: int,
        slot: int,
        flags: int,
        number: int,
        seconds: float,
        data: _Buffer,
        buffers: list[tuple[int, Any]],
    ) -> None: ...
    def send_queued(self) -> bool: ...
    def receive_ready(self) -> _Frame | None: ...
    def receive(self) -> _Frame | None: ...
