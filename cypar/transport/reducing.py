"""What picklers ask about arrays and buffers, on the way to a worker and back.

A subclass says where large buffers go. In the pickle, a token stands where such a
buffer belongs; `pickle.loads` is given the buffers in the same order.

Thread safety: one owner.
"""

from __future__ import annotations

from _pickle import PickleBuffer

from cypar.transport import arrays, memmap
from cypar.transport.mappings import is_ours


class LargeBytes:
    """Stands for bytes or a bytearray, so that the pickler asks about them."""

    __slots__ = ("data",)

    def __init__(self, data):
        self.data = data


class Reducer:
    """Answers picklers; see `cypar.transport.serialize.dumps_with_memory`.

    Attributes
    ----------
    array_bytes : int
        Arrays with more bytes are taken out of the pickle.
    raw_bytes : int
        Other buffers of at least as many bytes are.
    """

    array_bytes = raw_bytes = 0

    def __init__(self):
        self._token = None

    # ---- what a subclass defines --------------------------------------------------

    def restart(self):
        """Forget all buffers: the pickler begins anew."""
        raise NotImplementedError

    def put_array(self, array, may_map):
        """Take an array out of the pickle; returns how to reduce it."""
        raise NotImplementedError

    def put_bytes(self, data):
        """Take bytes out of the pickle, as an object of that type."""
        raise NotImplementedError

    def put_bytearray(self, data):
        """Do the same with a bytearray."""
        raise NotImplementedError

    def put_raw(self, buffer, owner):
        """Take contiguous bytes of an object out; False if they must stay in."""
        raise NotImplementedError

    def by_reference(self, array):
        """Return how to reduce a view of a file of the user's; None if it is none.

        Segments are no such files, even if they have names: they will be written again.
        """
        backing = memmap.backing_of(array)
        if backing is None or is_ours(backing.base):
            return None
        return memmap.reduce_view(array, backing)

    # ---- what picklers call -------------------------------------------------------

    def take_buffer(self, buffer):
        """Be the pickler's buffer_callback: true for a buffer that stays in."""
        if buffer is self._token:
            self._token = None
            return False
        raw = buffer.raw()
        if raw.nbytes < self.raw_bytes:
            return True
        return not self.put_raw(raw, memoryview(buffer).obj)

    def token(self):
        """Return what the pickler puts where the buffer just taken belongs."""
        # writable: for a read-only buffer, pickle would wrap the piece once more
        self._token = PickleBuffer(bytearray(1))
        return self._token

    def wrap(self, args):
        """Replace large bytes, which picklers copy unasked, in a tuple."""
        if not any(self._is_large(arg) for arg in args):
            return args
        wrapped = {}  # the same object twice must arrive as one
        for arg in args:
            if self._is_large(arg):
                wrapped.setdefault(id(arg), LargeBytes(arg))
        return tuple(wrapped.get(id(arg), arg) for arg in args)

    def _is_large(self, arg):
        kind = type(arg)
        return (kind is bytes or kind is bytearray) and len(arg) >= self.raw_bytes

    def reduce(self, obj):
        """Reduce an array or a buffer; NotImplemented leaves it to the pickler."""
        kind = type(obj)
        special = _SPECIAL.get(kind)
        if special is not None:
            return special(self, obj)
        numpy = arrays.loaded_numpy()
        if numpy is None or not issubclass(kind, numpy.ndarray):
            return NotImplemented
        if kind is numpy.ndarray or kind is numpy.memmap:
            return self._reduce_array(numpy, obj)
        if obj.nbytes <= self.array_bytes or obj.dtype.hasobject:
            return NotImplemented
        if issubclass(kind, numpy.ma.MaskedArray):
            return arrays.reduce_masked(numpy, obj) or NotImplemented
        if arrays.is_plain_subclass(numpy, kind):
            plain = arrays.Plain(obj.view(numpy.ndarray))
            return arrays.rebuild_subclass, (kind, plain)
        return NotImplemented

    def _reduce_array(self, numpy, array):
        reduced = self.by_reference(array)
        if reduced is not None:
            return reduced
        if array.nbytes > self.array_bytes and not array.dtype.hasobject:
            return self.put_array(array, True)
        if type(array) is numpy.memmap:  # a memmap without a file makes no sense
            array = numpy.array(array, order="K")
            return self._reduce_small(array, array.__reduce_ex__(5))
        return self._reduce_small(array, NotImplemented)

    def _reduce_small(self, array, default):
        """Reduce an array that stays in the pickle."""
        dtype = array.dtype
        if not dtype.isnative and dtype.kind in arrays.SIMPLE_KINDS:
            # NumPy gives most of these back in the machine's byte order
            native = array.view(dtype.newbyteorder("="))
            return arrays.rebuild_swapped, (native, arrays.describe_dtype(dtype))
        return default

    def _reduce_plain(self, plain):
        array = plain.array
        if array.nbytes > self.array_bytes and not array.dtype.hasobject:
            return self.put_array(array, False)
        return arrays.same, (array,)

    def _reduce_bytes(self, wrapper):
        data = wrapper.data
        if type(data) is bytes:
            return self.put_bytes(data)
        return self.put_bytearray(data)

    def _reduce_memoryview(self, view):
        layout = (view.format, view.shape)
        if view.format not in arrays.VIEW_FORMATS or (
            view.ndim > 1 and not view.nbytes
        ):
            return self._reduce_odd_memoryview(view)
        if view.c_contiguous and view.nbytes >= self.raw_bytes:
            raw = view if layout == ("B", (view.nbytes,)) else view.cast("B")
            if self.put_raw(raw, view.obj):
                return arrays.rebuild_memoryview, (self.token(), layout)
        data = view.tobytes() if view.readonly else bytearray(view.tobytes())
        return arrays.rebuild_memoryview, (data, layout)

    def _reduce_odd_memoryview(self, view):
        """Reduce one that `memoryview.cast` cannot make again: by way of an array."""
        numpy = arrays.loaded_numpy()
        if numpy is None:
            raise TypeError(
                f"a memoryview of format {view.format!r} and shape {view.shape} cannot "
                "be sent to another process; send bytes(view) and the format"
            )
        return memoryview, (arrays.Plain(numpy.asarray(view)),)


_SPECIAL = {
    arrays.Plain: Reducer._reduce_plain,
    LargeBytes: Reducer._reduce_bytes,
    memoryview: Reducer._reduce_memoryview,
}
