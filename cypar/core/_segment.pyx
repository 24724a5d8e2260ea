"""Shared memory that large buffers are copied to, and who still uses it.

A *segment* is memory without a name (a memfd), or a file where the user named a
folder. A *lease* is one task's use of one segment in one worker: it begins when
the task is sent and ends when nothing in the worker refers to the memory any more,
which the worker counts on its status page. So a view that a task keeps, keeps its
segment; and whatever the worker does, no message is needed.

Guarantees:

- A segment is written only while it has no pin but the writer's, and no live lease.
- A segment that a worker held when it died is never written again: a process that
  the worker forked may read it.
- A segment grows and never shrinks, so that nobody who maps it gets SIGBUS.

Thread safety: GIL. Copies run without it; the writer's pin keeps the segment.
"""

import os

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint64_t, uintptr_t
from posix.mman cimport munmap
from posix.unistd cimport close

from cypar.core._buffers cimport set_strided
from cypar.core._copying cimport Strided, copy_strided
from cypar.core._filling cimport fill, make_ready
from cypar.core._port cimport port_map_shared, port_punch, port_segment_fd
from cypar.core._status_page cimport N_LEASES, StatusPage

cdef uint64_t _last_serial = 0
cdef Py_ssize_t PAGE = 4096
cdef Py_ssize_t USUAL_LEASES = 64  # segments that a worker keeps mapped


cdef class Segment:
    """Memory that worker processes can map.

    Parameters
    ----------
    path : str, optional
        New file to use; memory without a name if omitted.

    Raises
    ------
    OSError
    """

    def __cinit__(self, path=None):
        global _last_serial
        self.fd = -1
        self.entries = []
        self.holders = []
        if path is None:
            self.fd = port_segment_fd("cypar-segment")
            if self.fd < 0:
                raise OSError(-self.fd, os.strerror(-self.fd))
            self.in_memory = True
        else:
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            self.path = path
        self.inode = os.fstat(self.fd).st_ino
        _last_serial += 1
        self.serial = _last_serial

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.capacity)
        if self.fd >= 0:
            close(self.fd)

    def reserve(self, Py_ssize_t n):
        """Make room for ``n`` bytes; pages come when they are written."""
        cdef Py_ssize_t capacity = PAGE
        cdef void* base
        if n <= self.capacity:
            return
        while capacity < n:
            capacity *= 2
        # quarter steps: sizes that vary a little need no new mapping in the workers
        while capacity > PAGE and capacity - capacity // 8 >= n:
            capacity -= capacity // 8
        capacity = (capacity + PAGE - 1) & ~(PAGE - 1)
        os.ftruncate(self.fd, capacity)
        base = port_map_shared(self.fd, capacity)
        if base == NULL:
            raise MemoryError(f"cannot map {capacity} bytes of shared memory")
        if self.base != NULL:
            munmap(self.base, self.capacity)
        self.base = <char*>base
        self.capacity = capacity
        self.touched = 0

    cdef int check(self, Py_ssize_t offset, Py_ssize_t n) except -1:
        if offset < 0 or n < 0 or n > self.capacity - offset or self.fd < 0:
            raise ValueError(f"{n} bytes at {offset} of {self.capacity}")
        return 0

    def write(self, Py_ssize_t offset, uintptr_t address, Py_ssize_t n,
              bint two_threads):
        """Copy ``n`` bytes at ``address`` to ``offset``, without the GIL."""
        cdef int status
        cdef size_t ready = max(0, self.allocated - offset)
        cdef size_t touched = max(0, self.touched - offset)
        self.check(offset, n)
        with nogil:  # GIL OUT: copies much
            status = fill(self.base + offset, self.fd, offset, <const char*>address,
                          n, ready, &touched, two_threads, self.in_memory)
        if status != 0:
            self.note_hole()
            raise OSError(-status, os.strerror(-status))
        self.note_filled(offset + n, offset + <Py_ssize_t>touched)

    def write_strided(self, Py_ssize_t offset, tuple layout):
        """Copy the elements of a view one after the other to ``offset``.

        ``layout`` is (address, itemsize, shape, strides), the longest stride first.
        """
        cdef Strided view
        cdef int status
        cdef size_t ready = max(0, self.allocated - offset)
        cdef size_t touched = max(0, self.touched - offset)
        cdef Py_ssize_t n = set_strided(&view, layout)
        self.check(offset, n)
        with nogil:  # GIL OUT: copies much
            status = make_ready(self.base + offset, self.fd, offset, n, ready, touched)
            if status == 0:
                copy_strided(self.base + offset, &view)
        if status != 0:
            self.note_hole()
            raise OSError(-status, os.strerror(-status))
        self.note_filled(offset + n, offset + n)

    cdef int note_filled(self, Py_ssize_t end, Py_ssize_t touched) except -1:
        self.allocated = max(self.allocated, end)
        self.touched = max(self.touched, touched)
        return 0

    cdef int note_hole(self) except -1:
        """Some pages are missing; of several buffers, those after them may be there."""
        if self.is_slab:
            self.retired = True  # `allocated` would promise too much
        return 0

    def unlink(self):
        """Remove the name of the file; workers reach it through the descriptor."""
        os.unlink(self.path)
        self.path = None

    def read(self, Py_ssize_t offset, Py_ssize_t n):
        """Return bytes of the content."""
        self.check(offset, n)
        return PyBytes_FromStringAndSize(self.base + offset, n)

    # ---- use ---------------------------------------------------------------------

    cpdef Pin pin(self):
        """Keep the content for as long as the `Pin` lives."""
        cdef Pin pin = Pin.__new__(Pin)
        pin.segment = self
        self.pins += 1
        return pin

    cpdef bint is_leased(self):
        """Whether some worker's task has it, or something of it."""
        cdef Leases leases
        for leases in self.holders:
            if leases.is_live(leases.slots[self.serial]):
                return True
        return False

    cpdef bint is_idle(self):
        """Whether it may be written."""
        return self.pins == 0 and not self.retired and not self.is_leased()

    # These two decide and act in one step: no other thread can come between, since no
    # Python code runs in them.

    cpdef Pin claim(self, bint to_close=False):
        """Pin it and keep everybody else away, if nobody uses it; else None.

        For one who will `make_empty` or, if ``to_close``, close it.
        """
        cdef Pin pin
        if (
            self.claimed or self.pins != 0 or self.is_leased()
            or (self.retired and not to_close)
        ):
            return None
        pin = self.pin()
        self.claimed = pin.is_claim = True
        return pin

    cpdef tuple take_piece(self, Py_ssize_t n, Py_ssize_t alignment):
        """Find room for one more buffer: (Pin, where it begins), or None."""
        cdef Py_ssize_t offset = self.cursor
        if (
            not self.is_slab or self.claimed or self.retired
            or n > self.capacity - offset
        ):
            return None
        self.cursor = (offset + n + alignment - 1) // alignment * alignment
        return self.pin(), offset

    def make_empty(self):
        """Forget what it holds, after `claim`; others may use it again.

        Still pinned, by the claim.
        """
        self.forget_content()
        self.claimed = False

    def ask_holders_to_collect(self):
        """Let the workers that hold it collect garbage after their task."""
        cdef Leases leases
        for leases in self.holders:
            leases.page.ask_to_collect()

    def forget_content(self):
        """Take it out of the registry."""
        for entry in list(self.entries):
            entry.drop()
        self.cursor = 0

    def close(self):
        """Give the memory back to the system; Idempotent.

        Pages are freed at once, although workers may still map them, unless the
        segment is retired.
        """
        cdef Leases leases
        if self.fd < 0:
            return
        self.forget_content()
        for leases in list(self.holders):
            leases.forget(self)
        if self.path is not None:
            try:
                os.unlink(self.path)
            except OSError:
                pass  # the user has cleaned the folder
        elif not self.retired:
            port_punch(self.fd, self.capacity)
        if self.base != NULL:
            munmap(self.base, self.capacity)
            self.base = NULL
        close(self.fd)
        self.fd = -1
        self.retired = True
        self.capacity = self.allocated = 0


cdef class Pin:
    """Keeps the content of a segment until nothing refers to the pin any more.

    So an exception, or a Ctrl-C between any two steps, leaves no segment pinned.
    """

    def __init__(self):
        raise TypeError("Segment.pin and Segment.claim make pins")

    def __del__(self):
        self.segment.pins -= 1
        if self.is_claim:
            self.segment.claimed = False


cdef class Leases:
    """Which segments one worker has, as its parent knows.

    Parameters
    ----------
    page : StatusPage
        Where the worker counts the leases that have ended, one word for each slot.
    """

    def __init__(self, StatusPage page):
        self.page = page
        self.slots = {}
        self.segments = []
        self.sent = []
        self.closed = []

    def lend(self, Segment segment):
        """Note one lease; returns the segment's slot, or None if all are taken."""
        slot = self.slots.get(segment.serial)
        if slot is None:
            slot = self.free_slot()
            if slot == N_LEASES:
                return None
            if slot == len(self.segments):
                self.segments.append(None)
                self.sent.append(0)
            self.page.reset_released(slot)
            self.segments[slot] = segment
            self.sent[slot] = 0
            self.slots[segment.serial] = slot
            segment.holders.append(self)
        self.sent[slot] = (self.sent[slot] + 1) & 0xFFFFFFFF
        return slot

    cdef bint is_live(self, Py_ssize_t slot):
        return self.page.released(slot) != self.sent[slot]

    cdef Py_ssize_t free_slot(self) except -1:
        """A slot without a live lease; N_LEASES if there is none."""
        cdef Py_ssize_t i, slot, n = len(self.segments)
        if n < USUAL_LEASES:
            return n
        for i in range(n):
            slot = (self.oldest + i) % n
            segment = self.segments[slot]
            if segment is None or not self.is_live(slot):
                self.oldest = slot + 1
                if segment is not None:
                    self.forget(segment)
                    self.segments[slot] = None
                return slot
        return n

    def forget(self, Segment segment):
        """Take a segment out that is closed or has no live lease here.

        While a view in the worker lives, the slot stays taken: its end is counted
        there.
        """
        slot = self.slots.pop(segment.serial, None)
        if slot is not None:
            segment.holders.remove(self)
            self.closed.append(slot)
            if not self.is_live(slot):
                self.segments[slot] = None

    def has_closed(self):
        """Whether `take_closed` may have something to return."""
        return len(self.closed) > 0

    def take_closed(self):
        """Return the slots whose mapping the worker may close, and forget them."""
        in_use = set(self.slots.values())
        closed = [slot for slot in self.closed if slot not in in_use]
        self.closed = []
        return closed

    def live(self):
        """Return the segments with a live lease."""
        return [
            segment for slot, segment in enumerate(self.segments)
            if segment is not None and self.is_live(slot)
        ]

    def drop(self):
        """End all leases: the worker is gone."""
        cdef Segment segment
        for slot, segment in enumerate(list(self.segments)):
            if segment is not None:
                if self.is_live(slot):
                    segment.retired = True
                self.forget(segment)
