"""Pickle results in a worker, their large buffers aside.

The buffers go over the socket as they are, each into memory of its own in the parent:
one copy out of this process and one into the other, and an ordinary array at the end.

Thread safety: one thread per worker process.
"""

from __future__ import annotations

from _pickle import dumps as _c_dumps

from cypar.core._plain import is_plain
from cypar.transport import arrays, serialize, settings
from cypar.transport._channel import AS_BYTEARRAY, AS_BYTES, AS_MEMORY
from cypar.transport.reducing import LargeBytes, Reducer

RESULT_BYTES = 64 << 10  # buffers of at least as many bytes go aside


class Returns(Reducer):
    """Pickles results.

    Examples
    --------
    >>> Returns().dumps([1, 2.5]) == _c_dumps([1, 2.5], 5)
    True
    >>> data, buffers = Returns().dumps(b"x" * RESULT_BYTES)
    >>> [(kind, len(buffer)) for kind, buffer in buffers]
    [(1, 65536)]
    """

    array_bytes = RESULT_BYTES - 1
    raw_bytes = RESULT_BYTES

    def __init__(self):
        super().__init__()
        self.buffers = []

    def dumps(self, value):
        """Pickle one result: bytes, or bytes and a list of (kind, buffer)."""
        if settings.plain_shortcut and is_plain(value, self.array_bytes, RESULT_BYTES):
            return _c_dumps(value, 5)
        if self._is_large(value):
            value = LargeBytes(value)
        self.buffers = []
        try:
            data = serialize.dumps_result_with_memory(value, self)
            return (data, self.buffers) if self.buffers else data
        finally:
            self.buffers = []
            self._token = None

    # ---- what picklers ask, see Reducer -------------------------------------------

    def restart(self):
        self.buffers.clear()

    def _reduce_small(self, array, default):
        reduced = super()._reduce_small(array, default)
        if reduced is NotImplemented and not array.flags.writeable:
            return array.__reduce_ex__(4)  # what comes back is writable
        return reduced

    def put_array(self, array, may_map):
        flat, order = arrays.flat_bytes(array)
        self.buffers.append((AS_MEMORY, flat))
        dtype = arrays.describe_dtype(array.dtype)
        return arrays.rebuild_result, (self.token(), dtype, array.shape, order)

    def put_bytes(self, data):
        self.buffers.append((AS_BYTES, memoryview(data)))
        return arrays.same, (self.token(),)

    def put_bytearray(self, data):
        self.buffers.append((AS_BYTEARRAY, memoryview(data)))
        return arrays.same, (self.token(),)

    def put_raw(self, buffer, owner):
        self.buffers.append((AS_MEMORY, buffer))
        return True
