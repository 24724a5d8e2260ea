"""The memory page that one worker process shares with its parent."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef struct PageHeader:
    # Each word has a cache line of its own; only the named side writes it.
    uint64_t window[2 * 8]     # [0], [8]: per slot (sequence, next, end); both by CAS
    uint64_t started_ns[8]     # [0]: start of the running task, 0 for none; worker
    uint64_t log_end[8]        # [0]: bytes of the result log written; worker
    uint64_t log_begin[8]      # [0]: bytes of the result log read; parent
    uint64_t rings[8]          # [0]: messages sent to the worker; parent
    uint64_t listening[8]      # [0]: 1 while the parent waits for a message; parent
    uint64_t waiting[8]        # [0]: 1 while the worker waits for a message; worker
    uint64_t collect[8]        # [0]: times the parent asked for a collection; parent


cdef enum:
    N_LEASES = 1024            # segments that one worker can have at a time


cdef struct Record:
    uint8_t kind               # one of the KIND_ constants
    uint8_t slot
    uint8_t reserved[2]
    uint32_t position          # of the task in its batch
    uint32_t size              # bytes of payload that follow
    float seconds              # time the task ran


cdef class StatusPage:
    cdef readonly int fd
    cdef char* base
    cdef PageHeader* page
    cdef char* log
    cdef uint32_t* released_counts  # by lease slot: leases that ended; worker

    cdef bint has_news(self) noexcept nogil
    cdef Py_ssize_t claim(self, int slot, int sequence, int64_t now_ns) noexcept nogil
    cdef bint append(self, uint8_t kind, int slot, Py_ssize_t position, double seconds,
                     const char* data, Py_ssize_t size) noexcept nogil


cdef Record* record_at(StatusPage page, uint64_t offset) noexcept nogil
cdef Py_ssize_t record_bytes(Py_ssize_t size) noexcept nogil
