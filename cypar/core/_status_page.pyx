"""What one worker process and its parent share: claims, starts and small results.

A batch travels over the socket into one of two *slots*. Its window on this page is
one 64-bit word, ``(sequence, next, end)`` of 16, 24 and 24 bits:

- the worker claims a task by compare-and-swap of ``next`` to ``next + 1``;
- the parent takes unclaimed tasks back by compare-and-swap of ``end`` to less;
- ``sequence`` numbers the batches of the slot: a worker that reads a batch whose
  tasks were all taken back, and whose slot has another batch by now, claims none.

So nothing waits behind a long task, each task is claimed once, and after a death
``next`` names the started task without a message.

The *result log* holds finished results until the parent has read them. A worker
claims its next task only when the last result is in the log or on the socket: a
SIGKILL in a batch of a thousand fast tasks loses none and repeats none.

States of a task: pending (before ``end`` is published) -> sent (``next <=`` position
``< end``) -> started (``next`` passed it) -> done (in the log or on the socket).

Thread safety: one thread per side.
"""

import os

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap
from posix.unistd cimport close, ftruncate

from cypar.core._port cimport (
    port_above_standard, port_add32, port_cas64, port_die_with_parent,
    port_die_with_pipe, port_fence, port_load32, port_load64, port_memory_fd,
    port_monotonic_ns, port_process_fd, port_read_umask, port_spin_step, port_store32,
    port_store64,
)

cpdef enum:
    KIND_NONE = 0
    KIND_TRUE = 1
    KIND_FALSE = 2
    KIND_INT = 3       # payload: int64
    KIND_FLOAT = 4     # payload: float64
    KIND_PICKLE = 5    # payload: a pickle of the value
    KIND_ERROR = 6     # payload: an encoded exception
    KIND_SKIP = 7      # unused end of the log, jumped over
    KIND_REFUSED = 8   # not run: the worker cannot map what the task needs

LOG_BYTES = 1 << 16   # results of about 2,700 tasks that return a number
cdef Py_ssize_t _LOG_BYTES = LOG_BYTES
cdef Py_ssize_t LEASES_BEGIN = 4096
cdef Py_ssize_t HEADER_BYTES = LEASES_BEGIN + 4 * N_LEASES
cdef Py_ssize_t TOTAL_BYTES = HEADER_BYTES + _LOG_BYTES
# A result above this goes over the socket, so that the log serves many tasks.
MAX_LOG_RESULT = LOG_BYTES // 8


MAX_BATCH = (1 << 24) - 1  # tasks
MAX_SEQUENCE = (1 << 16) - 1
cdef uint64_t MASK = (1 << 24) - 1
cdef uint64_t ONE_CLAIM = 1 << 24


cdef inline Py_ssize_t next_of(uint64_t word) noexcept nogil:
    return <Py_ssize_t>((word >> 24) & MASK)


cdef inline Py_ssize_t end_of(uint64_t word) noexcept nogil:
    return <Py_ssize_t>(word & MASK)


cdef Record* record_at(StatusPage page, uint64_t offset) noexcept nogil:
    """The record at ``offset`` bytes from the log's beginning in time."""
    return <Record*>(page.log + offset % _LOG_BYTES)


cdef Py_ssize_t record_bytes(Py_ssize_t size) noexcept nogil:
    """Room that a record with a payload of ``size`` bytes takes.

    A multiple of the header's 16 bytes, so that a header always fits into what is
    left before the end of the log.
    """
    return sizeof(Record) + ((size + 15) & ~<Py_ssize_t>15)


cdef class StatusPage:
    """One mapping of the page.

    Parameters
    ----------
    fd : int, default=-1
        Descriptor of an existing page; -1 makes a new one. Owned by this object.
    """

    def __cinit__(self, int fd=-1):
        cdef void* base
        cdef bint fresh = fd < 0
        self.fd = fd
        if fresh:
            self.fd = port_memory_fd("cypar-status")
            if self.fd < 0:
                raise OSError(-self.fd, "cannot make memory to share with a worker")
            if ftruncate(self.fd, TOTAL_BYTES) != 0:
                raise OSError("cannot size the memory to share with a worker")
        base = mmap(NULL, TOTAL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, self.fd, 0)
        if base == MAP_FAILED:
            raise OSError("cannot map the memory to share with a worker")
        self.base = <char*>base
        self.page = <PageHeader*>base
        self.released_counts = <uint32_t*>(self.base + LEASES_BEGIN)
        self.log = self.base + HEADER_BYTES

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, TOTAL_BYTES)
        if self.fd >= 0:
            close(self.fd)

    def close_fd(self):
        """Close the descriptor; the mapping stays."""
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1

    # ---- parent ----------------------------------------------------------------

    def publish(self, int slot, int sequence, Py_ssize_t n):
        """Offer the ``n`` tasks of a new batch in ``slot``."""
        port_store64(
            &self.page.window[8 * slot], <uint64_t>n | (<uint64_t>sequence << 48)
        )

    def recall(self, int slot, Py_ssize_t keep):
        """Take back the unclaimed tasks of ``slot`` but the first ``keep``.

        Returns
        -------
        (first, end) : tuple of int
            Positions that the worker will not run any more; maybe none.
        """
        cdef uint64_t word
        cdef Py_ssize_t cut
        while True:
            word = port_load64(&self.page.window[8 * slot])
            cut = next_of(word) + keep
            if end_of(word) <= cut:
                return (end_of(word), end_of(word))
            if port_cas64(
                &self.page.window[8 * slot], word, (word & ~MASK) | <uint64_t>cut
            ):
                return (cut, end_of(word))

    def claimed(self, int slot):
        """Number of tasks of ``slot`` that the worker has started."""
        return next_of(port_load64(&self.page.window[8 * slot]))

    def unclaimed(self, int slot):
        """Number of tasks of ``slot`` that the worker has not started."""
        cdef uint64_t word = port_load64(&self.page.window[8 * slot])
        return end_of(word) - next_of(word)

    def running_ns(self):
        """How long the running task has run, in ns; 0 when none runs."""
        cdef uint64_t started = port_load64(&self.page.started_ns[0])
        if started == 0:
            return 0
        return max(1, port_monotonic_ns() - <int64_t>started)

    def is_waiting(self):
        """Whether the worker waits for a message: it runs nothing and loads nothing."""
        return port_load64(&self.page.waiting[0]) != 0

    def ring(self):
        """Count a message that was sent, for a worker that spins."""
        port_store64(&self.page.rings[0], self.page.rings[0] + 1)

    cdef bint has_news(self) noexcept nogil:
        return port_load64(&self.page.log_end[0]) != self.page.log_begin[0]

    def released(self, Py_ssize_t slot):
        """Number of leases of ``slot`` that have ended, modulo 2**32."""
        return port_load32(&self.released_counts[slot])

    def reset_released(self, Py_ssize_t slot):
        """Count anew; there must be no live lease."""
        port_store32(&self.released_counts[slot], 0)

    def ask_to_collect(self):
        """Let the worker collect garbage after its task: something holds memory."""
        port_store64(&self.page.collect[0], self.page.collect[0] + 1)

    # ---- worker ------------------------------------------------------------------

    def release(self, Py_ssize_t slot, uint32_t n):
        """Count ``n`` leases of ``slot`` that have ended."""
        port_add32(&self.released_counts[slot], n)

    def collections_asked(self):
        """Number of times the parent has asked for a collection."""
        return port_load64(&self.page.collect[0])

    def set_waiting(self, bint waits):
        """Note that the worker begins or ends to wait for a message."""
        port_store64(&self.page.waiting[0], waits)

    def rings(self):
        """Number of messages that the parent has sent so far."""
        return port_load64(&self.page.rings[0])

    def is_listening(self):
        """Whether the parent must be told by a message of a new record.

        False while the parent is awake: it looks at the log before it waits.
        """
        port_fence()  # the record before this question
        return port_load64(&self.page.listening[0]) != 0

    def spin_for_ring(self, uint64_t seen, int64_t spin_ns):
        """Spin until a message beyond ``seen`` was sent; whether one was."""
        cdef int64_t until = port_monotonic_ns() + spin_ns
        cdef bint rung = False
        with nogil:  # GIL OUT: waits for the parent
            while port_monotonic_ns() < until:
                if port_load64(&self.page.rings[0]) != seen:
                    rung = True
                    break
                port_spin_step()
        return rung

    # ---- worker: no Python objects ----------------------------------------------

    cdef Py_ssize_t claim(self, int slot, int sequence, int64_t now_ns) noexcept nogil:
        """Start the next task of ``slot``: its position, or -1 when none is left."""
        cdef uint64_t word
        while True:
            word = port_load64(&self.page.window[8 * slot])
            if <int>(word >> 48) != sequence or next_of(word) >= end_of(word):
                port_store64(&self.page.started_ns[0], 0)
                return -1
            port_store64(&self.page.started_ns[0], <uint64_t>now_ns)
            if port_cas64(&self.page.window[8 * slot], word, word + ONE_CLAIM):
                return next_of(word)

    cdef bint append(self, uint8_t kind, int slot, Py_ssize_t position, double seconds,
                     const char* data, Py_ssize_t size) noexcept nogil:
        """Log one result; False when the log has no room for it."""
        cdef uint64_t end = self.page.log_end[0]
        cdef Py_ssize_t used = <Py_ssize_t>(end - port_load64(&self.page.log_begin[0]))
        cdef Py_ssize_t need = record_bytes(size)
        cdef Py_ssize_t offset = <Py_ssize_t>(end % _LOG_BYTES)
        cdef Py_ssize_t tail = _LOG_BYTES - offset
        cdef Record* record
        # A record is contiguous: a tail that is too short is skipped by a record.
        if tail < need:
            if used + tail + need > _LOG_BYTES:
                return False
            record = <Record*>(self.log + offset)
            record.kind = KIND_SKIP
            record.size = <uint32_t>(tail - <Py_ssize_t>sizeof(Record))
            end += tail
            offset = 0
        elif used + need > _LOG_BYTES:
            return False
        record = <Record*>(self.log + offset)
        record.kind = kind
        record.slot = <uint8_t>slot
        record.position = <uint32_t>position
        record.size = <uint32_t>size
        record.seconds = <float>seconds
        if size:
            memcpy(<char*>record + sizeof(Record), data, size)
        port_store64(&self.page.log_end[0], end + need)
        return True


# ---- the parent's wait -----------------------------------------------------------

cdef enum:
    MAX_SPUN = 64  # pages that one spin looks at


def spin_for_news(list pages, int64_t spin_ns):
    """Spin until one of the result logs has news; whether one has.

    Parameters
    ----------
    pages : list of StatusPage
    spin_ns : int
        0 looks once.
    """
    cdef PageHeader* headers[MAX_SPUN]
    cdef StatusPage page
    cdef int i, n = 0
    cdef bint found = False
    cdef int64_t until = port_monotonic_ns() + spin_ns
    for page in pages:
        if n == MAX_SPUN:
            break
        headers[n] = page.page
        n += 1
    with nogil:  # GIL OUT: waits for worker processes
        while True:
            for i in range(n):
                if port_load64(&headers[i].log_end[0]) != headers[i].log_begin[0]:
                    found = True
                    break
            if found or port_monotonic_ns() >= until:
                break
            port_spin_step()
    return found


def listen(list pages):
    """Ask for a message on every new record; whether some have come meanwhile.

    After True nobody must wait: the records may have come without a message.
    """
    cdef StatusPage page
    cdef bint found = False
    for page in pages:
        port_store64(&page.page.listening[0], 1)
    port_fence()
    for page in pages:
        found = found or page.has_news()
    return found


def stop_listening(list pages):
    """Undo `listen`."""
    cdef StatusPage page
    for page in pages:
        port_store64(&page.page.listening[0], 0)


# ---- system calls that the pool needs and Python lacks -------------------------


def above_standard(int fd):
    """Move a descriptor away from the numbers of stdin, stdout and stderr.

    Where the program has closed those, the next ones that are opened get their numbers.

    Parameters
    ----------
    fd : int
        Closed if another number is returned. Closed on exec.
    """
    cdef int moved = port_above_standard(fd)
    if moved < 0:
        raise OSError(-moved, os.strerror(-moved))
    return moved


def read_umask():
    """The umask of this process, without changing it."""
    return port_read_umask()


def process_fd(int pid):
    """A descriptor that becomes readable when ``pid`` ends, or -1 if there is none."""
    cdef int fd = port_process_fd(pid)
    return fd if fd >= 0 else -1


def die_with_pipe(int fd):
    """SIGKILL this process group when the last writer of the pipe is gone.

    Returns False where the platform cannot do that.
    """
    return port_die_with_pipe(fd) == 0


def die_with_parent(int pid):
    """SIGKILL this process when its parent ``pid`` ends; False if it has ended.

    The kernel looks at the thread that forked, so this is only for the children of a
    process with one thread.
    """
    return port_die_with_parent(pid) == 0
