"""Where the elements of an array lie in memory, and what of it to copy.

Most views are *dense*: the bytes from their first to their last element are copied as
they are, and the view is made again on the copy with its own strides. Where that would
copy more than twice the elements' bytes, the elements alone are copied, one after the
other, in the order in which they lie in memory (so that Fortran order survives).
"""

from __future__ import annotations

MAX_WASTE = 2  # bytes copied per byte of elements, at most


class Layout:
    """Addresses of one array.

    Attributes
    ----------
    first : int
        Address of the element with all indexes 0.
    low, high : int
        Addresses of the first byte and past the last one.
    strided : tuple or None
        ``(address, itemsize, shape, strides)`` with the longest stride first, if only
        the elements are copied.
    strides : tuple of int
        Of the array on the copy.
    offset : int
        Of the first element in the copy.
    size : int
        Bytes of the copy.
    """

    __slots__ = ("first", "high", "low", "offset", "size", "strided", "strides")

    def __init__(self, array):
        self.first = address_of(array)
        self.low, self.high = bounds(self.first, array)
        self.strides = array.strides
        self.strided = None
        self.offset = self.first - self.low
        self.size = self.high - self.low
        if self.size > MAX_WASTE * array.nbytes:
            self._compact(array)

    def _compact(self, array):
        shape, strides, itemsize = array.shape, array.strides, array.itemsize
        order = sorted(range(len(shape)), key=lambda axis: -abs(strides[axis]))
        self.strided = (
            self.first,
            itemsize,
            tuple(shape[axis] for axis in order),
            tuple(strides[axis] for axis in order),
        )
        copied = [0] * len(shape)
        step = itemsize
        for axis in reversed(order):
            copied[axis] = step
            step *= shape[axis]
        self.strides = tuple(copied)
        self.offset = 0
        self.size = step


def address_of(array):
    """Return the address of an array's first element."""
    return array.__array_interface__["data"][0]


def bounds(first, array):
    """Return the addresses of the lowest byte and past the highest one."""
    low = high = first
    if not array.size:
        return low, high
    for length, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            low += (length - 1) * stride
        else:
            high += (length - 1) * stride
    return low, high + array.itemsize
