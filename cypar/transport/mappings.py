"""What a worker has mapped of its parent's segments, and when it lets go.

A mapping that tasks may only read is made once and kept, since the first read of each
page costs more than all later ones; one that a task may write to, privately, is made
for that task. A lease ends when nothing in this process refers to the mapping any
more: found out by reference counts after each task (`sweep`), since arrays, views of
them and buffers of other libraries all refer to the `mmap` object in the end.

Thread safety: GIL; `attach` and `sweep` are called by the thread that runs tasks.
"""

from __future__ import annotations

import gc
import mmap
import os
import sys
from _weakref import ref as weak_reference

from cypar.core._buffers import copy_to_bytes
from cypar.core.errors import CyparError
from cypar.transport.memmap import map_fd
from cypar.transport.pieces import (
    BYTES,
    INLINE,
    MODES,
    RAW,
    RAW_READ,
    READ,
    SEGMENT,
    SHARED,
)

_GRANULARITY = mmap.ALLOCATIONGRANULARITY
# the mappings of this process by id, so that results tell them from the user's files
_ours: dict = {}
_instances: list = []
_n_mapped = 0  # private mappings so far
_pinned_below = 0  # those made before the last fork never end their leases


class CannotAttachError(CyparError):
    """This worker cannot map a segment: the parent must send the bytes themselves."""


def is_ours(mapping):
    """Whether an `mmap` object is of a segment, not of a file of the user's."""
    reference = _ours.get(id(mapping))
    return reference is not None and reference() is mapping


def _note_ours(mapping):
    key = id(mapping)
    _ours[key] = weak_reference(mapping, lambda _: _ours.pop(key, None))


class Piece:
    """A large buffer that an array will be made on."""

    __slots__ = ("buffer", "file_start", "filename", "kind", "start")

    def __init__(self, kind, buffer, start, file_start, filename):
        self.kind = kind
        self.buffer = buffer  # mmap object, or bytearray
        self.start = start  # of the piece in the buffer
        self.file_start = file_start  # of the buffer in the file
        self.filename = filename


class _Segment:
    """A segment as its parent described it."""

    __slots__ = (
        "bytes",
        "capacity",
        "fd",
        "filename",
        "inode",
        "kept",
        "leases",
        "name",
        "slot",
    )

    def __init__(self, slot, name, filename, capacity, inode):
        self.slot = slot
        self.name = name  # to open it by
        self.filename = filename  # what users see
        self.capacity = capacity
        self.inode = inode
        self.fd = -1
        self.kept = {}  # READ or SHARED -> mmap object
        self.leases = 0  # of the mappings that are kept
        self.bytes = {}  # (number of the copy, offset) -> bytes

    def open(self):
        """Return a descriptor of the segment."""
        if self.fd < 0:
            fd = os.open(self.name, os.O_RDWR | os.O_CLOEXEC)
            if os.fstat(fd).st_ino != self.inode:
                os.close(fd)
                raise CannotAttachError(f"{self.name} is not the segment expected")
            self.fd = fd
        return self.fd

    def mapping(self, kind):
        """Return the kept mapping for `READ` or `SHARED`."""
        found = self.kept.get(kind)
        if found is None:
            found = self.kept[kind] = map_fd(self.open(), kind, 0, self.capacity)
            _note_ours(found)
        return found

    def is_busy(self):
        """Whether anything but this object refers to a kept mapping."""
        return any(sys.getrefcount(self.kept[kind]) > _ALONE for kind in self.kept)

    def close(self):
        self.kept.clear()
        self.bytes.clear()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Mappings:
    """The segments of one worker process.

    Parameters
    ----------
    page : StatusPage
        Where ended leases are counted.
    parent_pid : int
    """

    def __init__(self, page, parent_pid):
        self.page = page
        self.parent_pid = parent_pid
        self.slots = {}  # slot -> _Segment
        self.busy = []  # segments whose kept mappings are leased
        self.with_bytes = set()  # segments with bytes objects that may be used again
        self.private = {}  # id of a weak reference -> it: mappings of single tasks
        self.pinned = []  # mappings that a forked process may use
        self.seen_collections = 0
        _instances.append(self)

    def learn(self, slot, payload):
        """Take note of a segment that later tasks will name by its slot."""
        fd, capacity, inode = SEGMENT.unpack_from(payload)
        path = os.fsdecode(bytes(payload[SEGMENT.size :]))
        old = self.slots.get(slot)
        if old is not None:
            if (old.inode, old.capacity) == (inode, capacity):
                return  # told again
            self._forget(old)
        name = path if fd < 0 else f"/proc/{self.parent_pid}/fd/{fd}"
        self.slots[slot] = _Segment(slot, name, path or name, capacity, inode)

    def _forget(self, segment):
        self.sweep()
        self.with_bytes.discard(segment)
        if segment.leases:  # a task has kept a view
            self.busy.remove(segment)
            self._release_with(list(segment.kept.values()), segment)
        segment.close()

    # ---- use -----------------------------------------------------------------------

    def attach(self, kind, slot, number, offset, size):
        """Return what stands for one piece in `pickle.loads`: one lease begins."""
        segment = self.slots[slot]
        try:
            return self._attach(segment, kind, number, offset, size)
        except OSError as error:
            self.sweep()
            self.page.release(slot, 1)
            raise CannotAttachError(f"cannot map {segment.name}: {error}") from error

    def _attach(self, segment, kind, number, offset, size):
        if kind == BYTES:
            return self._bytes(segment, number, offset, size)
        if kind in (READ, SHARED, RAW_READ):
            buffer = segment.mapping(SHARED if kind == SHARED else READ)
            begin = 0
            if not segment.leases:
                self.busy.append(segment)
            segment.leases += 1
        else:
            begin = offset // _GRANULARITY * _GRANULARITY
            buffer = map_fd(segment.open(), kind, begin, offset - begin + size)
            _note_ours(buffer)
            self._release_with([buffer], segment, 1)
        if kind in (RAW, RAW_READ):
            return memoryview(buffer)[offset - begin : offset - begin + size]
        return Piece(kind, buffer, offset - begin, begin, segment.filename)

    def _bytes(self, segment, number, offset, size):
        """Return a bytes object, the same one to all tasks that come soon."""
        found = segment.bytes.get((number, offset))
        if found is None or len(found) != size:
            buffer = segment.mapping(READ)
            found = copy_to_bytes(memoryview(buffer)[offset : offset + size])
            segment.bytes[number, offset] = found
            self.with_bytes.add(segment)
        self.page.release(segment.slot, 1)
        return found

    def _release_with(self, buffers, segment, n_leases=None):
        """End leases when the last one of some mappings is gone."""
        global _n_mapped
        _n_mapped += 1
        number = _n_mapped
        slot = segment.slot
        n_leases = segment.leases if n_leases is None else n_leases
        left = len(buffers)

        def ended(reference):
            nonlocal left
            self.private.pop(id(reference), None)
            left -= 1
            if left == 0 and number > _pinned_below:
                self.page.release(slot, n_leases)

        for buffer in buffers:
            reference = weak_reference(buffer, ended)
            self.private[id(reference)] = reference

    def pin(self):
        """Keep for good what is mapped now: a child process will share it."""
        self.sweep()
        for segment in self.busy:
            self.pinned.extend(segment.kept.values())
            segment.kept = {}
            segment.leases = 0
        self.busy = []

    # ---- letting go ---------------------------------------------------------------

    def sweep(self):
        """End the leases of all kept mappings that nothing refers to."""
        for segment in self.busy[:]:
            if not segment.is_busy():
                self.page.release(segment.slot, segment.leases)
                segment.leases = 0
                self.busy.remove(segment)

    def after_task(self):
        """End leases; collect garbage first if the parent needs memory."""
        self.sweep()
        if self.busy or self.private:
            self.collect_if_asked()

    def collect_if_asked(self):
        asked = self.page.collections_asked()
        if asked != self.seen_collections:
            self.seen_collections = asked
            gc.collect()
            self.sweep()

    def drop_bytes(self):
        """Let go of the bytes objects that were kept for further tasks."""
        for segment in self.with_bytes:
            segment.bytes.clear()
        self.with_bytes.clear()

    def close_slots(self, slots):
        """Unmap segments that the parent has no more."""
        self.sweep()
        for slot in slots:
            segment = self.slots.pop(slot, None)
            if segment is not None:
                self._forget(segment)


def inline_piece(kind, data):
    """Return what stands for a piece whose bytes came with the message."""
    kind &= ~INLINE
    if kind == BYTES:
        return bytes(data)
    if kind == RAW_READ:
        return memoryview(bytes(data))
    if kind == RAW:
        return memoryview(bytearray(data))
    # mapped modes need a file: without one, an ordinary array
    return Piece(None if kind in MODES else kind, bytearray(data), 0, 0, None)


def _pin_all():
    """Keep all leases for good: a child process is about to share the mappings."""
    global _pinned_below
    for mappings in _instances:
        mappings.pin()
    _pinned_below = _n_mapped


def _count_alone():
    """What getrefcount says of a mapping that only `_Segment.kept` refers to."""
    kept = {0: object()}
    for kind in kept:
        return sys.getrefcount(kept[kind])
    return None


class _NoPage:
    """Where a process that a task has forked counts leases: they are not its own."""

    def release(self, slot, n):
        pass

    def collections_asked(self):
        return 0


def _after_fork():
    for mappings in _instances:
        mappings.page = _NoPage()


_ALONE = _count_alone()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_pin_all, after_in_child=_after_fork)
