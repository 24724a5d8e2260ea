"""Find or make the copy of a block of memory that workers will map.

Where there is no room, the next kind of memory is taken, with one warning: the user's
folder, memory without a name, an unnamed file on disk, and at last the task's own
message.

Thread safety: GIL; one `Copier` belongs to one call.
"""

from __future__ import annotations

import itertools
import os
import warnings

from cypar.core._segment import Segment
from cypar.core.cpu import cpu_count
from cypar.core.errors import CyparWarning
from cypar.transport.arrays import loaded_numpy
from cypar.transport.layout import address_of, bounds
from cypar.transport.segments import ALIGNMENT, Arena, arena
from cypar.transport.temp_folder import TempFolder, chosen_folder

USUAL_ALIGNMENT = 16  # bytes; of what the allocators of C and NumPy return
MAX_ROOT = 2  # a view's whole array is copied if it is at most this many times larger
_numbers = itertools.count(1)
_warned: set = set()


def _unnamed_file():
    """Return a segment on disk that no name leads to."""
    import tempfile  # slow to import, and hardly ever needed

    fd, path = tempfile.mkstemp(prefix="cypar-")
    os.close(fd)
    os.unlink(path)
    segment = Segment(path)
    segment.unlink()
    return segment


disk_arena = Arena(_unnamed_file, max_bytes=1 << 62)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=disk_arena.abandon)


class Copier:
    """Places the large buffers of one call.

    Parameters
    ----------
    temp_folder : str or None
        What the call was given.
    named : bool
        Whether to use named files if the user wants them.
    """

    def __init__(self, temp_folder=None, named=True):
        self.call = next(_numbers)
        self.two_threads = cpu_count() > 1
        self.arenas = [arena, disk_arena]
        self.used = set()
        self.folder = self.folder_arena = None
        folder = chosen_folder(temp_folder) if named else None
        if folder is not None:
            self.folder = TempFolder(folder)
            self.folder_arena = Arena(self.folder.make_segment, max_bytes=1 << 62)
            self.arenas.insert(0, self.folder_arena)

    def place_array(self, array, layout, writable):
        """Return (Pin of the segment, number of the copy, offset) of an array's bytes.

        None if there is no room for them. ``writable``: workers may write to the copy.
        """
        root = _root_of(array)
        low, high = layout.low, layout.high
        if layout.strided is None:
            root_low, root_high = bounds(address_of(root), root)
            if root_high - root_low <= MAX_ROOT * (high - low):
                low, high = root_low, root_high
        return self._place(root, low, high, layout, _is_immutable(array), writable)

    def place_buffer(self, root, address, size):
        """Return the same for a contiguous buffer, which belongs to ``root``."""
        numpy = loaded_numpy()
        if numpy is not None and isinstance(root, numpy.ndarray):
            immutable = _is_immutable(root)
            root = _root_of(root)
        else:
            immutable = _is_immutable_object(root)
        block = _Block(address, size)
        return self._place(root, address, address + size, block, immutable, False)

    def _place(self, root, low, high, layout, immutable, writable):
        failures = {}  # kind of memory -> why it has no room
        placed = None
        for choice in self.arenas:
            try:
                placed = self._place_in(
                    choice, root, low, high, layout, immutable, writable
                )
                break
            except (OSError, MemoryError) as error:
                failures[_kind_of(choice)] = str(error)
        if failures:
            _warn(failures)
        return placed

    def _place_in(self, choice, root, low, high, layout, immutable, writable):
        self.used.add(choice)
        strided = layout.strided
        registry = choice.registry
        # a writable copy is looked up with its own bounds: all of it is compared
        wanted = (low, high) if writable else (layout.low, layout.high)
        found = registry.find(root, *wanted, strided, writable, self.call)
        if found is not None:
            entry, pin = found
            choice.counters.reused += 1
            return pin, entry.number, _offset(entry, layout)
        if strided is None:
            # elements that are aligned here stay so, wherever the memory begins
            shift = low % ALIGNMENT if low % USUAL_ALIGNMENT else 0
            pin, offset = choice.take(high - low + shift)
            offset += shift
        else:
            pin, offset = choice.take(layout.size)
        segment = pin.segment
        watched = None
        try:
            if strided is None:
                if not writable:
                    watched = registry.watch(low, high)
                segment.write(offset, low, high - low, self.two_threads)
            else:
                segment.write_strided(offset, strided)
        except BaseException:
            if watched is not None:
                watched.end(False)
            raise
        entry = registry.add(
            root,
            low,
            high,
            strided,
            segment,
            offset,
            immutable,
            writable,
            self.call,
            watched,
        )
        return pin, entry.number, _offset(entry, layout)

    def close(self):
        """Forget what holds for this call; give back what is not kept for later."""
        for used in self.used:
            used.registry.end_call(self.call)
            # files on disk are no faster when used again, and take room there
            used.trim(0 if used is disk_arena else None)
        if self.folder is not None:
            self.folder_arena.close()
            self.folder.remove()


class _Block:
    """A layout of contiguous bytes."""

    __slots__ = ("high", "low", "size", "strided")

    def __init__(self, address, size):
        self.low = address
        self.high = address + size
        self.size = size
        self.strided = None


def _offset(entry, layout):
    if entry.strided is not None:
        return entry.offset
    return entry.offset + layout.low - entry.low


def _root_of(array):
    """Return the array that an array is a view of, whatever that one's memory is."""
    numpy = loaded_numpy()
    while isinstance(array.base, numpy.ndarray):
        array = array.base
    return array


def _is_immutable(array):
    """Whether nobody can write to an array's memory without changing a flag."""
    numpy = loaded_numpy()
    while isinstance(array, numpy.ndarray):
        if array.flags.writeable:
            return False
        array = array.base
    return array is None or _is_immutable_object(array)


def _is_immutable_object(obj):
    if type(obj) is bytes:
        return True
    # Arrow's buffers say so themselves
    return (
        type(obj).__module__.startswith("pyarrow")
        and getattr(obj, "is_mutable", None) is False
    )


def _kind_of(choice):
    if choice is disk_arena:
        return "in a temporary file"
    if choice is arena:
        return "in shared memory"
    return "in the temporary folder"


_INSTEAD = {
    "in the temporary folder": "memory without a name is used",
    "in shared memory": "a temporary file is used",
    "in a temporary file": "they travel in messages, and each worker has its own copy",
}


def _warn(failures):
    """Tell once that there is no room, and what is done instead."""
    kinds = tuple(failures)
    if kinds in _warned:
        return
    _warned.add(kinds)
    reasons = " or ".join(f"{kind} ({failures[kind]})" for kind in kinds)
    warnings.warn(
        f"no room for large arrays {reasons}: {_INSTEAD[kinds[-1]]}",
        CyparWarning,
        stacklevel=2,
    )
