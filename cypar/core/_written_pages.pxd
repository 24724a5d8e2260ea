"""Which pages of this process's memory were written to."""

from libc.stdint cimport uintptr_t

cdef enum Written:
    UNKNOWN = -1  # all of the memory must be compared
    DIFFERENT = 0
    SAME = 1


cdef class WatchedRange:
    cdef readonly uintptr_t low, high  # addresses; whole pages
    cdef readonly bint is_live    # the kernel still tells of it
    cdef bint scanning            # a thread is at it without the GIL
    cdef WrittenPages owner

    cdef Written compare(self, const char* copy, uintptr_t low, uintptr_t high) except *
    cpdef int end(self, bint was_in_vain) except -1


cdef class WrittenPages:
    cdef int fd, pagemap
    cdef readonly bint is_refused  # by the kernel, once and for all
    cdef readonly list ranges
    cdef dict patience            # first address -> [watches to leave out, left]

    cdef bint open(self) except -1
    cdef int sweep(self) except -1
    cdef int forget(self, WatchedRange watched) except -1
    cpdef WatchedRange watch(self, uintptr_t low, uintptr_t high)


cdef WrittenPages written_pages
