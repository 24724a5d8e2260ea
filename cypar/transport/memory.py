"""What one call does with large buffers: decide, copy, refer.

::

    task -> pickler -> ndarray        -> of a file: a name and numbers (memmap.py)
                                      -> large: a piece of a segment, as memmap or not
                    -> other buffers  -> large: a piece of a segment
                    -> the rest       -> the pickle itself

A pickle holds a token where a piece belongs; the pieces are listed in a `Parcel` in the
same order. A copy that is there already, of the same memory with the same content, is
used again.

Thread safety: used by the one thread that draws for a call. The arena is shared.
"""

from __future__ import annotations

from _pickle import PickleBuffer
from _pickle import dumps as _c_dumps

from cypar.core._plain import is_plain
from cypar.core._segment import Parcel, buffer_address
from cypar.transport import arrays, memmap, serialize, settings
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

# Arrays that need not be mapped are sent so from here on.
PLAIN_BYTES = 1 << 20
# Other buffers from here on; below, a copy into the pickle costs less than mapping.
RAW_BYTES = 256 << 10


class CallMemory:
    """The large buffers of one call.

    Parameters
    ----------
    max_nbytes : int or None
        Arrays with more bytes are mapped.
    mmap_mode : str or None
    temp_folder : str or None
    """

    def __init__(self, max_nbytes, mmap_mode, temp_folder=None):
        self.max_nbytes = None if mmap_mode is None else max_nbytes
        self.kind = KIND_OF_MODE.get(mmap_mode, PLAIN)
        if self.max_nbytes is None:
            self.limit = PLAIN_BYTES
        else:
            self.limit = min(self.max_nbytes, PLAIN_BYTES)
        self.copier = Copier(temp_folder)
        self.parcel = None
        self._token = None

    # ---- pickling --------------------------------------------------------------------

    def dumps(self, obj):
        """Pickle something; returns the bytes and a `Parcel`, or None for no pieces."""
        if settings.plain_shortcut and is_plain(obj, self.limit, RAW_BYTES):
            return _c_dumps(obj, 5), None
        self.parcel = Parcel()
        try:
            data = serialize.dumps_with_memory(obj, self)
            return data, self.parcel if len(self.parcel) else None
        finally:
            self.parcel = self._token = None

    def dumps_task(self, args, kwargs):
        """Pickle the arguments of a task like `dumps`."""
        if settings.plain_shortcut and is_plain((args, kwargs), self.limit, RAW_BYTES):
            return _c_dumps((args, kwargs), 5), None
        return self.dumps((self.wrap(args), kwargs))

    def wrap(self, args):
        """Replace large bytes, which picklers would copy, in a tuple of arguments."""
        kinds = (bytes, bytearray)
        if not any(type(arg) in kinds and len(arg) >= RAW_BYTES for arg in args):
            return args
        wrapped = {}  # the same object twice must arrive as one
        for arg in args:
            if type(arg) in kinds and len(arg) >= RAW_BYTES:
                wrapped.setdefault(id(arg), _LargeBytes(arg))
        return tuple(wrapped.get(id(arg), arg) for arg in args)

    def restart(self):
        """Forget all pieces: the pickler begins anew."""
        self.parcel.clear()

    def take_buffer(self, buffer):
        """Be the pickler's buffer_callback: true for a buffer that stays in."""
        if buffer is self._token:
            self._token = None
            return False
        raw = buffer.raw()
        if raw.nbytes < RAW_BYTES or len(self.parcel) >= MAX_PIECES:
            return True
        self._add_raw(raw, memoryview(buffer).obj, RAW_READ if raw.readonly else RAW)
        return False

    def _piece_token(self):
        """Return what the pickler puts where the piece just added belongs."""
        # writable: for a read-only buffer, pickle would wrap the piece once more
        self._token = PickleBuffer(bytearray(1))
        return self._token

    # ---- reducing, called by the picklers ----------------------------------------------

    def reduce(self, obj):
        """Reduce an array or a buffer; NotImplemented leaves it to the pickler."""
        kind = type(obj)
        if kind is arrays.Plain:
            return self._reduce_plain(obj.array)
        if kind is _LargeBytes:
            return self._reduce_bytes(obj)
        if kind is memoryview:
            return self._reduce_memoryview(obj)
        numpy = arrays.loaded_numpy()
        if numpy is None or not issubclass(kind, numpy.ndarray):
            return NotImplemented
        if kind is numpy.ndarray or kind is numpy.memmap:
            return self._reduce_array(numpy, obj)
        if obj.nbytes <= self.limit or obj.dtype.hasobject:
            return NotImplemented
        if issubclass(kind, numpy.ma.MaskedArray):
            return arrays.reduce_masked(numpy, obj) or NotImplemented
        if arrays.is_plain_subclass(numpy, kind):
            plain = arrays.Plain(obj.view(numpy.ndarray))
            return arrays.rebuild_subclass, (kind, plain)
        return NotImplemented

    def _reduce_array(self, numpy, array):
        backing = memmap.backing_of(array)
        if backing is not None:
            reduced = memmap.reduce_view(array, backing)
            if reduced is not None:
                return reduced
        nbytes = array.nbytes
        if nbytes <= self.limit or array.dtype.hasobject:
            if type(array) is numpy.memmap:  # a memmap without a file makes no sense
                return numpy.array(array, order="K").__reduce_ex__(5)
            return NotImplemented
        if self.max_nbytes is not None and nbytes > self.max_nbytes:
            return self._reduce_to_piece(array, self.kind)
        return self._reduce_to_piece(array, PLAIN)

    def _reduce_plain(self, array):
        if array.nbytes <= self.limit or array.dtype.hasobject:
            return arrays.same, (array,)
        return self._reduce_to_piece(array, PLAIN)

    def _reduce_to_piece(self, array, kind):
        if len(self.parcel) >= MAX_PIECES:
            return array.__reduce_ex__(4)
        layout = Layout(array)
        placed = self.copier.place_array(array, layout, kind == SHARED)
        if placed is None:
            data = array.tobytes()
            self.parcel.add(kind | INLINE, data, 0, 0, len(data))
            strides, offset = None, 0
        else:
            segment, number, start = placed
            self.parcel.add(kind, segment, number, start, layout.size)
            segment.unpin()
            strides = None if array.flags.c_contiguous else layout.strides
            offset = layout.offset
        return arrays.rebuild_array, (
            self._piece_token(),
            arrays.describe_dtype(array.dtype),
            array.shape,
            strides,
            offset,
        )

    def _reduce_bytes(self, wrapper):
        data = wrapper.data
        if type(data) is bytes:
            self._add_raw(data, data, BYTES)
            return arrays.same, (self._piece_token(),)
        self._add_raw(data, data, RAW_READ)
        return arrays.rebuild_bytearray, (self._piece_token(),)

    def _reduce_memoryview(self, view):
        layout = (view.format, view.shape)
        if not view.c_contiguous or view.nbytes < RAW_BYTES:
            data = view.tobytes() if view.readonly else bytearray(view.tobytes())
            return arrays.rebuild_memoryview, (data, layout)
        self._add_raw(view, view.obj, RAW_READ if view.readonly else RAW)
        return arrays.rebuild_memoryview, (self._piece_token(), layout)

    def _add_raw(self, buffer, root, kind):
        address, size, _ = buffer_address(buffer)
        placed = self.copier.place_buffer(root, address, size)
        if placed is None:
            self.parcel.add(kind | INLINE, bytes(buffer), 0, 0, size)
        else:
            segment, number, start = placed
            self.parcel.add(kind, segment, number, start, size)
            segment.unpin()

    # ---- the end -----------------------------------------------------------------------

    def close(self):
        """End the call: named files go, and memory beyond what is kept for later."""
        self.copier.close()


class _LargeBytes:
    """Stands for bytes or a bytearray, so that the pickler asks about them."""

    __slots__ = ("data",)

    def __init__(self, data):
        self.data = data
