"""Which memory of this process has a copy in which segment.

An entry says that the bytes from one address to another, which belong to a living
object (the *root*), have been copied to a segment. It is used again only if the bytes
are still the same:

- up to 4 MB, all of them are compared at every use;
- above, the kernel tells which pages were written to since the copy was made, where it
  can (`_written_pages`): only these are compared, and no change is missed;
- otherwise all are compared once in each call, and at the other uses one cache line in
  each 4 KiB, starting at a random one. A change of 4 KiB in a row is always seen; one
  of a few bytes in 400 MB between two tasks of one call may not be;
- memory that nobody may write (``immutable``) is compared once in each call.

Copies that workers may write to are compared by a fingerprint of all bytes, and are
used within one call only.

No reference to a user's object outlives the call, not even a weak one (NumPy refuses
to resize an array that has one). What remains is an *orphan*: an address, whose bytes
the next call compares, all of them, before it uses the copy again.

Thread safety: GIL. Comparisons run without it, on pinned segments; what another thread
has done meanwhile is looked at again after that.
"""

import sys
from _weakref import ref as weak_reference
from os import urandom

from libc.stdint cimport uint64_t, uintptr_t

from cypar.core._buffers cimport set_strided
from cypar.core._copying cimport (
    DENSE, SPARSE, Strided, equal_bytes, equal_samples, equal_samples_strided,
    equal_strided, fingerprint, fingerprint_strided, next_random,
)
from cypar.core._segment cimport Pin, Segment
from cypar.core._written_pages cimport SAME, UNKNOWN, Written, written_pages

from cypar.core.cpu import cpu_count

cdef uintptr_t FULL_BYTES = 4 << 20  # compared in full at every use: 0.25 ms
cdef Py_ssize_t MAX_EVICTED = 1000
cdef Py_ssize_t ORPHAN_BYTES = 1 << 20  # a smaller copy is not kept after its call
cdef object _getrefcount = sys.getrefcount


cdef class Entry:
    """One copy; see the top of this file."""

    def root_is_ours_alone(self):
        """Whether the registry keeps an owner alive that nobody else wants."""
        return not self.is_weak and _getrefcount(self.root) <= _alone

    def drop(self):
        """Forget the copy. The segment stays as it is. Idempotent."""
        if self.is_dropped:
            return
        self.is_dropped = True
        self.own_pin = None
        self.unwatch(False)
        self.detach()
        if self in self.registry.orphans:
            self.registry.orphans.remove(self)
        if self in self.segment.entries:
            self.segment.entries.remove(self)

    cdef int detach(self) except -1:
        """Forget the owner."""
        known = self.registry.entries.get(self.key)
        if known is not None and self in known:
            known.remove(self)
            if not known:
                del self.registry.entries[self.key]
        if self in self.registry.strong:
            self.registry.strong.remove(self)
        self.root = None
        self.is_weak = False
        self.hits = 0
        return 0

    cdef int attach(self, root) except -1:
        """Be a copy of memory that belongs to ``root``."""
        self.key = id(root)
        try:
            self.root = weak_reference(root, lambda _: self.drop())
            self.is_weak = True
        except TypeError:  # bytes and others have no weak references
            self.root = root
            self.registry.strong.append(self)
        self.registry.entries.setdefault(self.key, []).append(self)
        return 0

    cdef bint holds(self, uintptr_t low, uintptr_t high, tuple strided,
                    bint writable, uint64_t call) except -1:
        """Whether the copy is of memory that includes what is described."""
        if self.is_dropped or self.segment.claimed or self.writable != writable:
            return False
        if writable and call != self.call:
            return False  # each call has its own
        if strided is not None or self.strided is not None:
            return strided == self.strided
        if writable:  # all of it is compared, so it must be the memory of now
            return low == self.low and high == self.high
        return self.low <= low and high <= self.high

    def evict(self):
        """Forget the copy to make room, but remember that its owner still lives."""
        root = self.root() if self.is_weak else None
        if root is not None:
            self.registry.remember_evicted(self.key, root)
        self.drop()

    cdef bint is_current(self, uintptr_t low, uintptr_t high, uint64_t call,
                         uint64_t seed) except -1:
        """Whether the bytes from ``low`` to ``high`` are those of the copy.

        The caller has pinned its segment.
        """
        cdef bint covered = call == self.call and (
            self.strided is not None
            or (self.seen_low <= low and high <= self.seen_high)
        )
        cdef Written answer = UNKNOWN
        cdef WatchedRange begun = None
        cdef bint was_watched = self.watched is not None, same = False
        if self.immutable and covered:
            return True
        try:
            if was_watched:
                answer = self.compare_written(low, high, seed)
            elif call != self.call and self.may_watch(low, high):
                begun = written_pages.watch(low, high)  # and then all is compared
            if answer != UNKNOWN:
                same = answer == SAME
            else:
                same = self.compare_all(low, high, covered and not was_watched, seed)
        finally:
            if not same and begun is not None:
                begun.end(True)  # it had changed before
        if not same:
            self.unwatch(answer == UNKNOWN)
            return False
        if begun is not None:
            self.keep_watch(begun)
        if not covered:
            if call == self.call and low <= self.seen_high and self.seen_low <= high:
                self.seen_low = min(low, self.seen_low)
                self.seen_high = max(high, self.seen_high)
            else:
                self.seen_low = low
                self.seen_high = high
            self.call = call
        return True

    cdef bint compare_all(self, uintptr_t low, uintptr_t high, bint may_sample,
                          uint64_t seed) except -1:
        """Compare without the kernel's help: all bytes, or samples of many."""
        if self.strided is not None:
            may_sample = may_sample and <uintptr_t>self.size > FULL_BYTES
            return self.compare_strided(may_sample, seed)
        may_sample = may_sample and high - low > FULL_BYTES
        return self.compare(low, high, DENSE if may_sample else 0, seed)

    # ---- memory that the kernel watches -------------------------------------------

    cdef bint may_watch(self, uintptr_t low, uintptr_t high):
        """Whether to watch the copied memory, all of which is about to be compared.

        Of a larger copy, the rest may not even exist any more.
        """
        return (
            self.strided is None
            and not self.writable
            and high - low > FULL_BYTES
            and low == self.low
            and high == self.high
        )

    cdef int keep_watch(self, WatchedRange begun) except -1:
        """Rely on the kernel from now on."""
        if self.is_dropped or self.watched is not None:
            begun.end(False)  # another thread has been here meanwhile
        else:
            self.watched = begun
        return 0

    cdef Written compare_written(self, uintptr_t low, uintptr_t high,
                                 uint64_t seed) except *:
        """Compare pages that were written to, and a few lines of all others."""
        cdef WatchedRange watched = self.watched
        cdef const char* copy = self.segment.base + self.offset
        cdef Written answer = watched.compare(
            copy + (watched.low - self.low), low, high
        )
        if not watched.is_live and self.watched is watched:
            self.watched = None
        # the ends, which share their pages with other memory
        if answer == SAME and low < watched.low:
            answer = <Written>self.compare(low, watched.low, 0, seed)
        if answer == SAME and watched.high < high:
            answer = <Written>self.compare(watched.high, high, 0, seed)
        if answer == SAME:  # a device that writes to memory is not seen by the kernel
            answer = <Written>self.compare(low, high, SPARSE, seed)
        return answer

    cdef int unwatch(self, bint was_in_vain) except -1:
        """Let the kernel forget this memory."""
        cdef WatchedRange watched = self.watched
        self.watched = None
        if watched is not None:
            watched.end(was_in_vain)
        return 0

    # ---- reading the memory -------------------------------------------------------

    @property
    def size(self):
        """Bytes of the copy."""
        if self.strided is None:
            return self.high - self.low
        size = self.strided[1]
        for length in self.strided[2]:
            size *= length
        return size

    cdef bint compare(self, uintptr_t low, uintptr_t high, size_t step,
                      uint64_t seed) except -1:
        """Compare all bytes, or one line in each ``step`` if that is not 0."""
        cdef const char* copy = self.segment.base + self.offset + (low - self.low)
        cdef const char* source = <const char*>low
        cdef const char* whole = <const char*>self.low
        cdef size_t n = high - low, n_whole = self.high - self.low
        cdef bint writable = self.writable, same
        cdef uint64_t digest = self.digest
        cdef bint two_threads = self.registry.two_threads
        with nogil:  # GIL OUT: reads much
            if writable:
                same = fingerprint(whole, n_whole) == digest
            elif step:
                same = equal_samples(copy, source, n, step, seed, two_threads)
            else:
                same = equal_bytes(copy, source, n, two_threads)
        return same

    cdef bint compare_strided(self, bint samples, uint64_t seed) except -1:
        cdef Strided view
        cdef const char* copy = self.segment.base + self.offset
        cdef bint writable = self.writable, same
        cdef uint64_t digest = self.digest
        set_strided(&view, self.strided)
        with nogil:  # GIL OUT: reads much
            if writable:
                same = fingerprint_strided(&view) == digest
            elif samples:
                same = equal_samples_strided(copy, &view, seed)
            else:
                same = equal_strided(copy, &view)
        return same

    cdef int take_digest(self) except -1:
        """Keep a fingerprint of the copy as it is before workers write to it."""
        cdef Strided view
        if self.strided is not None:
            set_strided(&view, self.strided)
            self.digest = fingerprint_strided(&view)
        else:
            self.digest = fingerprint(
                self.segment.base + self.offset, self.high - self.low
            )
        return 0


cdef class Registry:
    """All copies that may be used again.

    Examples
    --------
    >>> registry = Registry()
    >>> registry.find(registry, 0, 0, None, False, 1) is None
    True
    """

    def __init__(self):
        self.two_threads = cpu_count() > 1
        self.entries = {}
        self.strong = []
        self.orphans = []
        self.evicted = {}
        self.state = int.from_bytes(urandom(8), "little") | 1

    def find(self, root, uintptr_t low, uintptr_t high, tuple strided, bint writable,
             uint64_t call):
        """Find a copy that holds these bytes as they are now.

        Parameters
        ----------
        root : object
            Owner of the memory.
        low, high : int
            Addresses of the first byte and past the last one; ignored with `strided`.
        strided : tuple or None
            ``(address, itemsize, shape, strides)`` of elements that are apart.
        writable : bool
            Whether workers may write to the copy.
        call : int
            Number of the call that asks.

        Returns
        -------
        (Entry, Pin) or None
        """
        cdef Entry entry
        cdef Pin pin
        for entry in list(self.entries.get(id(root), ())):
            owner = entry.root() if entry.is_weak else entry.root
            if owner is root and entry.holds(low, high, strided, writable, call):
                pin = entry.segment.pin()
                if entry.is_current(low, high, call, next_random(&self.state)):
                    entry.hits += 1
                    return entry, pin
                entry.drop()  # the memory has changed
        for entry in list(self.orphans):
            if entry.holds(low, high, strided, writable, call):
                pin = entry.segment.pin()
                if entry.is_current(low, high, call, next_random(&self.state)):
                    # another thread, which compared it as well, may have been first
                    if entry in self.orphans:
                        self.orphans.remove(entry)
                        entry.attach(root)
                    entry.hits = 1
                    return entry, pin
                entry.drop()
        return None

    def watch(self, uintptr_t low, uintptr_t high):
        """Let the kernel watch memory that is about to be copied, if that pays.

        Returns
        -------
        WatchedRange or None
            For `add`; it must be ended if nothing is added.
        """
        return written_pages.watch(low, high) if high - low > FULL_BYTES else None

    def add(self, root, uintptr_t low, uintptr_t high, tuple strided,
            Segment segment, Py_ssize_t offset, bint immutable, bint writable,
            uint64_t call, WatchedRange watched=None):
        """Register a copy that has just been made; returns its entry."""
        cdef Entry entry = Entry.__new__(Entry)
        entry.registry = self
        entry.low = entry.seen_low = low
        entry.high = entry.seen_high = high
        entry.strided = strided
        entry.segment = segment
        entry.offset = offset
        entry.immutable = immutable
        entry.watched = watched
        entry.writable = writable
        entry.call = call
        entry.hits = 1 if self.was_evicted(root) else 0
        self.last_number = (self.last_number + 1) & 0xFFFFFFFF
        entry.number = self.last_number
        if writable:
            entry.take_digest()
            # what tasks write to it is to be seen by the next ones
            entry.own_pin = segment.pin()
        entry.attach(root)
        segment.entries.append(entry)
        return entry

    def was_evicted(self, root):
        """Whether a copy of this memory has made room for another one before."""
        reference = self.evicted.get(id(root))
        return reference is not None and reference() is root

    def remember_evicted(self, key, root):
        """Note that; such a copy is kept longer the next time."""
        evicted = self.evicted
        if len(evicted) < MAX_EVICTED:
            evicted[key] = weak_reference(root, lambda _: evicted.pop(key, None))

    def sweep(self):
        """Let go of owners that nobody else wants any more."""
        for entry in list(self.strong):
            if entry.root_is_ours_alone():
                entry.drop()

    def end_call(self, uint64_t call):
        """Forget what holds for one call only, and all owners that it knew."""
        cdef Entry entry
        for known in list(self.entries.values()):
            for entry in list(known):
                if entry.call != call or entry.is_dropped:
                    continue
                if entry.writable or entry.size < ORPHAN_BYTES:
                    entry.drop()
                else:
                    entry.detach()
                    self.orphans.append(entry)
        self.evicted.clear()
        written_pages.sweep()

    def __len__(self):
        return sum(map(len, self.entries.values())) + len(self.orphans)


cdef Py_ssize_t _count_alone() except -1:
    """What getrefcount says of an object that only an entry refers to."""
    cdef Entry entry = Entry.__new__(Entry)
    entry.root = object()
    return _getrefcount(entry.root)


cdef Py_ssize_t _alone = _count_alone()
