"""Take arrays apart into a large buffer and the little around it, and build them again.

The functions named ``rebuild_...`` are called by `pickle.loads`, in workers for
arguments and in the parent for results. NumPy is imported when the first array comes.
"""

from __future__ import annotations

import sys

from cypar.core._buffers import copy_to_bytearray
from cypar.transport.pieces import MODES

# what `memoryview.cast` knows
VIEW_FORMATS = frozenset("cbB?hHiIlLqQnNfdP")
# dtype.kind of arrays whose dtype is fully described by its string
SIMPLE_KINDS = frozenset("biufcSUmM")


class Plain:
    """An array that must arrive as an ordinary one, whatever the memmap options."""

    __slots__ = ("array",)

    def __init__(self, array):
        self.array = array


def loaded_numpy():
    """Return NumPy if this process has loaded it: else there are no arrays."""
    numpy = sys.modules.get("numpy")
    return numpy if hasattr(numpy, "ndarray") else None


def describe_dtype(dtype):
    """Return what stands for a dtype in a pickle: its string if that says all."""
    if dtype.kind in SIMPLE_KINDS and dtype.metadata is None:
        return dtype.str
    return dtype


def is_plain_subclass(numpy, kind):
    """Whether a subclass of ndarray leaves the pickling of its data to ndarray."""
    base = numpy.ndarray
    return (
        kind.__reduce__ is base.__reduce__
        and kind.__reduce_ex__ is base.__reduce_ex__
        and kind.__setstate__ is base.__setstate__
    )


def reduce_masked(numpy, array):
    """Reduce a masked array to data, mask and the rest; None if it is special."""
    if type(array).__reduce__ is not numpy.ma.MaskedArray.__reduce__:
        return None
    mask = numpy.ma.getmask(array)
    if mask is not numpy.ma.nomask:
        mask = Plain(mask)
    data = Plain(numpy.ma.getdata(array, subok=False))
    rest = (array._fill_value, array._hardmask)
    return rebuild_masked, (type(array), array._baseclass, data, mask, *rest)


def flat_bytes(array):
    """Return an array's bytes in one piece and the order, 'C' or 'F', they are in.

    Nothing is copied if the array is contiguous in either order.
    """
    order = "C"
    if not array.flags.c_contiguous:
        if not array.flags.f_contiguous:
            array = array.copy(order="K")
        if array.flags.f_contiguous:
            order = "F"
        elif not array.flags.c_contiguous:  # axes in another order
            array = array.copy(order="C")
    flat = (array.T if order == "F" else array).reshape(-1)
    return memoryview(flat.view("u1")), order


# ---- called by pickle.loads --------------------------------------------------------


def rebuild_array(piece, dtype, shape, strides, offset):
    """Make an ndarray, or np.memmap if the piece says so, on a mapped piece."""
    import numpy as np  # the first array of this process

    buffer, start = piece.buffer, piece.start + offset
    mode = MODES.get(piece.kind)
    if mode is None:
        return np.ndarray(shape, dtype, buffer, start, strides)
    return as_memmap(np, buffer, start, piece, mode, dtype, shape, strides)


def as_memmap(np, buffer, start, piece, mode, dtype, shape, strides):
    """Make an np.memmap on a mapping that exists."""
    array = np.ndarray.__new__(np.memmap, shape, dtype, buffer, start, strides)
    array._mmap = buffer
    array.mode = mode
    array.offset = piece.file_start + start
    array.filename = piece.filename
    return array


def rebuild_swapped(array, dtype):
    """Make an array of the other byte order from its bytes."""
    return array.view(dtype)


def rebuild_subclass(cls, array):
    """Make an instance of a subclass of ndarray on the memory of an array."""
    return array.view(cls)


def rebuild_masked(cls, baseclass, data, mask, fill_value, hardmask):
    """Make a masked array from its parts."""
    array = rebuild_subclass(cls, data)
    array._baseclass = baseclass
    array._mask = mask
    array._fill_value = fill_value
    array._hardmask = hardmask
    return array


def rebuild_stored(stored, dtype, shape, order, may_map):
    """Make an array on bytes of a file, np.memmap if the file was mapped."""
    import numpy as np  # the first array of this process

    mapped = stored.mapped
    if mapped is None or not may_map:
        return np.ndarray(shape, dtype, stored.buffer, stored.start, order=order)
    strides = None
    if order == "F":
        strides = np.ndarray(
            shape, dtype, stored.buffer, stored.start, order="F"
        ).strides
    mode = MODES[mapped.kind]
    return as_memmap(
        np, stored.buffer, stored.start, mapped, mode, dtype, shape, strides
    )


def rebuild_memoryview(piece, layout):
    """Make a memoryview with the format and shape of the original."""
    view = memoryview(piece)
    if layout == ("B", (view.nbytes,)):
        return view
    # `cast` takes no shape with zeros
    return view.cast("B").cast(*(layout if view.nbytes else layout[:1]))


def rebuild_bytearray(piece):
    """Make a bytearray of the task's own."""
    return copy_to_bytearray(piece)


def same(value):
    """Return what a large buffer has become: bytes."""
    return value


def rebuild_result(buffer, dtype, shape, order):
    """Make an array on memory that a result was received in."""
    import numpy as np  # the first array of this process

    return np.ndarray(shape, dtype, buffer, order=order)
