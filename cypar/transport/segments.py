"""The arena: segments that are kept and used again.

Writing to memory that has its pages already is five times as fast as to new memory, so
recycling is the whole gain. A segment is in one of these states::

    pinned     a captured task or a copy under way needs it
    leased     something in a worker refers to it
    cached     neither, and its content is that of a living object: a later task that
               gets the same object, unchanged, needs no copy
    free       neither, and its content is of no use

A new copy takes a free segment; then one that is cached and was never used again;
only then is a new one made. So shared memory follows the tasks in flight, not the
length of the loop, and still an object that comes again and again is copied once.

Thread safety: GIL. Another thread may run between any two lines, so who wants to write
to a segment or to close it has to `claim` it first, and looks for another one if that
fails.
"""

from __future__ import annotations

import errno
import os

from cypar.core._buffer_registry import Registry
from cypar.core._segment import Segment
from cypar.core._written_pages import descriptors
from cypar.core.memory_limit import memory_limit

SLAB_PIECE = 64 << 10  # buffers up to this size share a segment
SLAB_BYTES = 1 << 20
LARGE_SLAB_BYTES = 64 << 20
MAX_SEGMENTS = 128  # descriptors; above, larger buffers share segments, too
ALIGNMENT = 64  # bytes; of buffers that share a segment
MAX_IDLE_BYTES = 1 << 30  # kept for later calls, at most
MAX_OVERSIZE = 4  # a free segment may be this many times too large
LINGERING_BYTES = 64 << 20  # held by finished tasks: workers are asked to collect


class Counters:
    """What happened to large buffers so far.

    Attributes
    ----------
    cold, warm : int
        Copies to new memory, and to memory that was used before.
    reused : int
        Times that a copy was there already.
    peak_bytes : int
        Most memory that segments had at a time.
    """

    __slots__ = ("cold", "peak_bytes", "reused", "warm")

    def __init__(self):
        self.cold = self.warm = self.reused = self.peak_bytes = 0

    def __repr__(self):
        return (
            f"<cold={self.cold} warm={self.warm} reused={self.reused} "
            f"peak_bytes={self.peak_bytes}>"
        )


class Arena:
    """Segments of one kind.

    Parameters
    ----------
    make_segment : callable
        () -> Segment; may raise OSError.
    max_bytes : int or None
        Of all segments together; None for half of the memory of the control group.
    """

    def __init__(self, make_segment=Segment, max_bytes=None):
        self.make_segment = make_segment
        self.registry = Registry()
        self.segments = []
        self.slab = None
        self.clock = 0
        self.counters = Counters()
        self._max_bytes = max_bytes
        self._max_idle_bytes = None

    @property
    def max_bytes(self):
        if self._max_bytes is None:
            self._max_bytes = memory_limit() // 2
        return self._max_bytes

    @max_bytes.setter
    def max_bytes(self, value):
        self._max_bytes = value

    @property
    def max_idle_bytes(self):
        if self._max_idle_bytes is None:
            self._max_idle_bytes = min(MAX_IDLE_BYTES, memory_limit() // 4)
        return self._max_idle_bytes

    @max_idle_bytes.setter
    def max_idle_bytes(self, value):
        self._max_idle_bytes = value

    @property
    def total_bytes(self):
        """Bytes that have pages."""
        return sum(map(_size, list(self.segments)))

    # ---- room for a copy -----------------------------------------------------------

    def take(self, n):
        """Return (Pin, offset) of room for ``n`` bytes.

        Raises
        ------
        OSError
            If there is no memory, no descriptor, or the cap would be exceeded.
        """
        self.clock += 1
        self.registry.sweep()
        if n <= SLAB_PIECE or len(self.segments) >= MAX_SEGMENTS:
            return self._ready(*self._take_of_slab(n), n)
        return self._ready(self._recycled(n) or self._new(n), 0, n)

    def _ready(self, pin, offset, n):
        """Return a pin and an offset after the segment got room there."""
        segment = pin.segment
        segment.reserve(offset + n)
        segment.used = self.clock
        if segment.allocated >= offset + n:
            self.counters.warm += 1
        else:
            self.counters.cold += 1
        return pin, offset

    def _recycled(self, n):
        """Return the pin of a segment that nobody needs, empty, or None."""
        while True:
            segment = self._best(n)
            if segment is None:
                return None
            pin = segment.claim()
            if pin is not None:
                if segment is self.slab:
                    self.slab = None
                segment.is_slab = False  # else small buffers would be written into it
                self._evict(segment)
                segment.make_empty()
                return pin

    def _best(self, n):
        """Return the idle segment that should be written next, or None."""
        free, cached = [], []
        for segment in list(self.segments):
            if segment.is_idle():
                again = any(entry.hits for entry in segment.entries)
                (cached if again else free).append(segment)
        # not one that is far too large: the next large buffer needs it
        fitting = [s for s in free if s.allocated <= MAX_OVERSIZE * n]
        if fitting:
            large = [s for s in fitting if s.allocated >= n]
            if large:
                return min(large, key=lambda s: (bool(s.entries), s.allocated))
            return max(fitting, key=_size)  # only what it grows by is new
        if self.total_bytes + n <= self.max_bytes:
            return None
        # over the cap: the one not used for the longest time, whatever it holds
        candidates = sorted(free + cached, key=lambda s: s.used)
        for segment in candidates:
            if segment.allocated >= n:
                return segment
        for segment in candidates:
            if self.total_bytes + n <= self.max_bytes:
                break
            pin = segment.claim()
            if pin is not None:
                self._evict(segment)
                self._close(segment)
        return None

    def _evict(self, segment):
        for entry in list(segment.entries):
            entry.evict()

    def _new(self, n):
        self._ask_for_lingering()
        if self.total_bytes + n > self.max_bytes:
            raise OSError(
                errno.ENOSPC,
                f"{n} more bytes of shared memory would exceed the limit of "
                f"{self.max_bytes}, half of what this process may use",
            )
        segment = self.make_segment()
        pin = segment.pin()
        self.segments.append(segment)
        self.counters.peak_bytes = max(self.counters.peak_bytes, self.total_bytes + n)
        return pin

    def _ask_for_lingering(self):
        """Let workers collect garbage if finished tasks still hold much memory."""
        segments = list(self.segments)
        lingering = [s for s in segments if s.pins == 0 and s.is_leased()]
        if sum(map(_size, lingering)) >= LINGERING_BYTES:
            for segment in lingering:
                segment.ask_holders_to_collect()

    def _take_of_slab(self, n):
        slab = self.slab
        if slab is not None:
            pin = slab.claim()
            if pin is not None:  # all that it held is done with
                slab.make_empty()
            room = slab.take_piece(n, ALIGNMENT)
            if room is not None:
                return room
        pin = self._fresh_slab(
            max(n, LARGE_SLAB_BYTES if n > SLAB_PIECE else SLAB_BYTES)
        )
        room = pin.segment.take_piece(n, ALIGNMENT)
        self.slab = pin.segment
        return room

    def _fresh_slab(self, size):
        """Return the pin of an empty slab that no other thread knows of."""
        for segment in list(self.segments):
            if segment.is_slab and segment.capacity >= size:
                pin = segment.claim()
                if pin is not None:
                    segment.make_empty()
                    return pin
        pin = self._new(size)
        pin.segment.reserve(size)  # now: it must not move once others write to it
        pin.segment.is_slab = True
        return pin

    # ---- giving memory back --------------------------------------------------------

    def trim(self, max_idle_bytes=None):
        """Free idle segments, the longest unused first, until the rest is small."""
        if max_idle_bytes is None:
            max_idle_bytes = self.max_idle_bytes
        segments = list(self.segments)
        idle = [s for s in segments if s.pins == 0 and not s.is_leased()]
        kept = sum(map(_size, idle))
        for segment in sorted(idle, key=lambda s: s.used):
            if kept <= max_idle_bytes and not segment.retired:
                continue
            size = segment.allocated
            pin = segment.claim(True)
            if pin is not None:
                kept -= size
                self._close(segment)

    def _close(self, segment):
        if segment is self.slab:
            self.slab = None
        segment.close()  # first: if a Ctrl-C comes between, it is removed later
        try:
            self.segments.remove(segment)
        except ValueError:
            pass  # another thread closes it, too

    def close(self):
        """Free all segments; views in workers stay valid."""
        for segment in list(self.segments):
            self._close(segment)

    def descriptors(self):
        """Return what the segments and their registry have open, for leak checks."""
        return {segment.fd for segment in list(self.segments)} | descriptors()

    def abandon(self):
        """In a forked child: forget the parent's segments without touching them."""
        self.registry = Registry()
        self.segments = []
        self.slab = None


def _size(segment):
    return segment.allocated


# One for the process: memory without names.
arena = Arena()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=arena.abandon)
