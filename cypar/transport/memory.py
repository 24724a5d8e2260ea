"""What one call does with large buffers: decide, copy, refer.

::

    task -> pickler -> ndarray        -> of a file: a name and numbers (memmap.py)
                                      -> large: a piece of a segment, as memmap or not
                    -> other buffers  -> large: a piece of a segment
                    -> the rest       -> the pickle itself

The pieces are listed in a `Parcel` in the order in which the pickle wants them. A copy
that is there already, of the same memory with the same content, is used again.

Thread safety: used by the one thread that draws for a call. The arena is shared.
"""

from __future__ import annotations

from _pickle import dumps as _c_dumps

from cypar.core._buffers import buffer_address
from cypar.core._parcel import Parcel
from cypar.core._plain import is_plain
from cypar.transport import arrays, serialize, settings
from cypar.transport.copies import Copier
from cypar.transport.layout import Layout
from cypar.transport.pieces import (
    BYTES,
    INLINE,
    KIND_OF_MODE,
    MAX_PIECES,
    PLAIN,
    RAW,
    RAW_READ,
    SHARED,
)
from cypar.transport.reducing import Reducer
from cypar.transport.sharing import Shared, shared, sweep

# Arrays that need not be mapped are sent by segment from here on.
PLAIN_BYTES = 1 << 20
# Other buffers from here on; below, a copy into the pickle costs less than mapping.
RAW_BYTES = 256 << 10


class CallMemory(Reducer):
    """The large buffers of one call.

    Parameters
    ----------
    max_nbytes : int or None
        Arrays with more bytes are mapped.
    mmap_mode : str or None
    temp_folder : str or None
    named : bool
        Whether to use named files if the user wants them.
    makes_patches : bool
        Whether equal parts of large pickles are sent once. Not where it is open which
        worker gets a task.
    """

    raw_bytes = RAW_BYTES

    def __init__(
        self, max_nbytes, mmap_mode, temp_folder=None, named=True, makes_patches=True
    ):
        super().__init__()
        self.max_nbytes = None if mmap_mode is None else max_nbytes
        self.kind = KIND_OF_MODE.get(mmap_mode, PLAIN)
        if self.max_nbytes is None:
            self.array_bytes = PLAIN_BYTES
        else:
            self.array_bytes = min(self.max_nbytes, PLAIN_BYTES)
        self.makes_patches = makes_patches
        self.parcel = None
        self._temp_folder = temp_folder
        self._named = named
        self._copier = None

    @property
    def copier(self):
        """Made for the first large buffer: most calls have none."""
        if self._copier is None:
            self._copier = Copier(self._temp_folder, self._named)
        return self._copier

    def close(self):
        """End the call: named files go, and memory beyond what is kept for later."""
        if self._copier is not None:
            self._copier.close()
            self._copier = None
        if shared:
            sweep()

    # ---- pickling -----------------------------------------------------------------

    def dumps(self, obj):
        """Pickle something; returns the bytes and a `Parcel`, or None for no pieces."""
        if settings.plain_shortcut and is_plain(obj, self.array_bytes, RAW_BYTES):
            return _c_dumps(obj, 5), None
        self.parcel = Parcel()
        try:
            data = serialize.dumps_with_memory(obj, self)
            return data, self.parcel or None
        finally:
            self.parcel = self._token = None

    def dumps_task(self, args, kwargs):
        """Pickle the arguments of a task like `dumps`."""
        obj = (args, kwargs)
        if settings.plain_shortcut and is_plain(obj, self.array_bytes, RAW_BYTES):
            return _c_dumps(obj, 5), None
        return self.dumps((self.wrap(args), kwargs))

    # ---- what picklers ask, see Reducer -------------------------------------------

    def restart(self):
        self.parcel.clear()

    def reduce(self, obj):
        if type(obj) is Shared:
            return self._reduce_shared(obj)
        return super().reduce(obj)

    def put_array(self, array, may_map):
        if len(self.parcel) >= MAX_PIECES:
            return array.__reduce_ex__(4)
        kind = PLAIN
        if may_map and self.max_nbytes is not None and array.nbytes > self.max_nbytes:
            kind = self.kind
        layout = Layout(array)
        placed = self.copier.place_array(array, layout, kind == SHARED)
        if placed is None:
            strides, offset = None, 0
            data = array.tobytes()
            self.parcel.add(kind | INLINE, data, 0, 0, len(data))
        else:
            strides = None if array.flags.c_contiguous else layout.strides
            offset = layout.offset
            self._add(kind, placed, layout.size)
        dtype = arrays.describe_dtype(array.dtype)
        parts = (dtype, array.shape, strides, offset)
        return arrays.rebuild_array, (self.token(), *parts)

    def put_bytes(self, data):
        if not self._put(BYTES, data, data):
            return arrays.same, (data,)
        return arrays.same, (self.token(),)

    def put_bytearray(self, data):
        if not self._put(RAW_READ, data, data):
            return bytearray, (bytes(data),)
        return arrays.rebuild_bytearray, (self.token(),)

    def put_raw(self, buffer, owner):
        return self._put(RAW_READ if buffer.readonly else RAW, buffer, owner)

    def _put(self, kind, buffer, owner):
        if len(self.parcel) >= MAX_PIECES:
            return False
        address, size, _ = buffer_address(buffer)
        placed = self.copier.place_buffer(owner, address, size)
        if placed is None:
            self.parcel.add(kind | INLINE, bytes(buffer), 0, 0, size)
        else:
            self._add(kind, placed, size)
        return True

    def _add(self, kind, placed, size):
        pin, number, offset = placed
        self.parcel.add(kind, pin.segment, number, offset, size)

    def _reduce_shared(self, handle):
        if handle.captured is None:
            # not in the user's folder: the copy outlives the call
            own = CallMemory(self.max_nbytes, "r", named=False)
            handle.captured = own.dumps(handle.obj)
            own.close()
        self.parcel.shares.append(handle)
        return handle.__reduce__()
