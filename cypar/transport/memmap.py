"""Send the user's own np.memmap arrays, and all views of them, as a name and numbers.

The worker opens the same file: nothing is copied, and what it writes to an array that
was opened 'r+' or 'w+' is seen by everybody. Sent by value instead: a memmap of mode
'c' that was written to, one whose file has no name any more, and views of anonymous
`mmap` objects.
"""

from __future__ import annotations

import mmap
import os
from _weakref import ref as weak_reference

from cypar.core.errors import CyparError
from cypar.transport.arrays import as_memmap, describe_dtype, loaded_numpy
from cypar.transport.layout import Layout, address_of
from cypar.transport.pieces import COPY_ON_WRITE, READ, SHARED

# how a worker opens what was opened so here: 'w+' again would erase the file
_KINDS = {"r": READ, "r+": SHARED, "w+": SHARED, "c": COPY_ON_WRITE}
_PAGE = mmap.PAGESIZE
_PAGEMAP = "/proc/self/pagemap"
_MAPS = "/proc/self/maps"

# id of an mmap object -> (weak reference to it, (device, inode) or None for no name)
_identities: dict = {}


class MappedFile:
    """One opening of a file: where `rebuild_array` puts its arrays."""

    __slots__ = ("buffer", "file_start", "filename", "kind", "start")

    def __init__(self, kind, buffer, file_start, filename):
        self.kind = kind
        self.buffer = buffer
        self.start = 0
        self.file_start = file_start
        self.filename = filename


def backing_of(array):
    """Return the np.memmap whose mapping holds the array's memory, or None.

    Parameters
    ----------
    array : ndarray
        A memmap, or any view of one, np.asarray's included.
    """
    numpy = loaded_numpy()
    owner = array
    while owner is not None:
        base = getattr(owner, "base", None)
        if isinstance(base, mmap.mmap):
            named = isinstance(owner, numpy.memmap) and owner.filename is not None
            return owner if named else None
        if isinstance(base, memoryview):
            base = base.obj
        owner = base if isinstance(base, numpy.ndarray) else None
    return None


def reduce_view(array, backing):
    """Reduce a view of a memmap to the file and the place in it.

    Returns
    -------
    tuple or None
        As ``__reduce__``; None if the array must travel by value.
    """
    kind = _KINDS.get(backing.mode)
    if kind is None or array.dtype.hasobject or not array.nbytes:
        return None
    identity = _identity(backing)
    if identity is None:
        return None
    layout = Layout(array)
    if kind == COPY_ON_WRITE and not _is_untouched(layout.low, layout.high):
        return None
    start = backing.offset + layout.low - address_of(backing)
    return rebuild_view, (
        os.fspath(backing.filename),
        identity,
        kind,
        start,
        layout.high - layout.low,
        describe_dtype(array.dtype),
        array.shape,
        array.strides,
        layout.first - layout.low,
        array.flags.writeable,
    )


def _identity(backing):
    """Return (device, inode) of the file if its name still leads to it, else None."""
    try:
        status = os.stat(backing.filename)
    except OSError:
        return None
    now = (status.st_dev, status.st_ino)
    mapping = backing.base
    key = id(mapping)
    known = _identities.get(key)
    if known is None or known[0]() is not mapping:
        first = None if _is_deleted(address_of(backing)) else now
        reference = weak_reference(mapping, lambda _: _identities.pop(key, None))
        known = _identities[key] = (reference, first)
    return now if known[1] == now else None


def _is_deleted(address):
    """Whether the file that is mapped at an address has lost its name.

    A file that was replaced by another one counts as well. (The inode that the system
    gives for the mapping differs from that of the name on overlay file systems.)
    """
    try:
        with open(_MAPS, encoding="utf-8", errors="replace") as maps:
            for line in maps:
                low, _, high = line.partition(" ")[0].partition("-")
                if int(low, 16) <= address < int(high, 16):
                    return line.rstrip("\n").endswith(" (deleted)")
    except (OSError, ValueError):
        pass
    return False


def _is_untouched(low, high):
    """Whether a private mapping still shows the file: no page of it was written to.

    The kernel says for each page whether it is the file's own (bit 61) or a copy.
    """
    first, last = low // _PAGE, -(-high // _PAGE)
    try:
        with open(_PAGEMAP, "rb", buffering=0) as pagemap:
            data = os.pread(pagemap.fileno(), 8 * (last - first), 8 * first)
    except OSError:
        return False
    if len(data) != 8 * (last - first):
        return False
    return not data[7::8].translate(None, _NOT_COPIED)


# The highest byte of a page's entry: bit 7 present, 6 swapped, 5 the file's own.
_NOT_COPIED = bytes(top for top in range(256) if not top & 0xC0 or top & 0x20)


# ---- called by pickle.loads --------------------------------------------------------


def rebuild_view(
    filename, identity, kind, start, size, dtype, shape, strides, offset, writable
):
    """Map a part of a file and make the array on it."""
    import numpy as np  # the first array of this process

    begin = start // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    buffer = open_mapping(filename, identity, kind, begin, start - begin + size)
    mapped = MappedFile(kind, buffer, begin, filename)
    array = as_memmap(
        np,
        buffer,
        start - begin + offset,
        mapped,
        {READ: "r", SHARED: "r+", COPY_ON_WRITE: "c"}[kind],
        dtype,
        shape,
        strides,
    )
    if not writable and array.flags.writeable:
        array.flags.writeable = False
    return array


def open_mapping(filename, identity, kind, begin, length):
    """Map ``length`` bytes of a file from ``begin`` on."""
    flags = os.O_RDWR if kind == SHARED else os.O_RDONLY
    fd = os.open(filename, flags | getattr(os, "O_CLOEXEC", 0))
    try:
        status = os.fstat(fd)
        if identity is not None and (status.st_dev, status.st_ino) != identity:
            raise CyparError(
                f"{filename!r} is another file than the one that the array was mapped "
                "from: do not replace files while tasks use them"
            )
        if status.st_size < begin + length:
            raise CyparError(
                f"{filename!r} has {status.st_size} bytes, but the array needs "
                f"{begin + length}: it was cut off while a task was waiting for it"
            )
        return map_fd(fd, kind, begin, length)
    finally:
        os.close(fd)


def map_fd(fd, kind, begin, length):
    """Map a part of an open file as a kind of piece needs it."""
    if kind == READ:
        access = mmap.ACCESS_READ
    elif kind == SHARED:
        access = mmap.ACCESS_WRITE
    else:
        access = mmap.ACCESS_COPY
    return mmap.mmap(fd, length, access=access, offset=begin)
