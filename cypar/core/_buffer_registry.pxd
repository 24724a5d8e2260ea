"""Which memory of this process has a copy in which segment."""

from libc.stdint cimport uint64_t, uintptr_t

from cypar.core._segment cimport Pin, Segment
from cypar.core._written_pages cimport WatchedRange, Written


cdef class Entry:
    cdef Registry registry
    cdef object root              # weak reference to the owner, the owner, or None
    cdef readonly bint is_weak
    cdef object key               # id of the owner
    cdef readonly uintptr_t low, high  # addresses; 0, 0 for a strided view
    cdef readonly tuple strided   # (address, itemsize, shape, strides), or None
    cdef readonly Segment segment
    cdef readonly Py_ssize_t offset  # of the copy in the segment
    cdef readonly bint is_dropped
    cdef readonly bint immutable
    cdef readonly bint writable   # workers may write to the copy
    cdef Pin own_pin              # of such a copy, else None
    cdef readonly uint64_t call   # in which it was last compared
    cdef uint64_t digest          # of a writable copy when it was made
    cdef uintptr_t seen_low, seen_high  # addresses compared in full in that call
    cdef readonly Py_ssize_t hits  # times it was used again
    cdef WatchedRange watched     # the kernel tells what is written there; or None
    cdef readonly uint64_t number  # tells this copy from others, modulo 2**32

    cdef bint is_current(self, uintptr_t low, uintptr_t high, uint64_t call,
                         uint64_t seed) except -1
    cdef bint may_watch(self, uintptr_t low, uintptr_t high)
    cdef int keep_watch(self, WatchedRange begun) except -1
    cdef Written compare_written(self, uintptr_t low, uintptr_t high,
                                 uint64_t seed) except *
    cdef int unwatch(self, bint was_in_vain) except -1
    cdef bint compare_all(self, uintptr_t low, uintptr_t high, bint may_sample,
                          uint64_t seed) except -1
    cdef bint compare(self, uintptr_t low, uintptr_t high, size_t step,
                      uint64_t seed) except -1
    cdef bint compare_strided(self, bint samples, uint64_t seed) except -1
    cdef int take_digest(self) except -1
    cdef int detach(self) except -1
    cdef int attach(self, root) except -1
    cdef bint holds(self, uintptr_t low, uintptr_t high, tuple strided,
                    bint writable, uint64_t call) except -1


cdef class Registry:
    cdef bint two_threads         # there is more than one CPU
    cdef dict entries             # id of the owner -> list of Entry
    cdef list strong              # entries that keep their owner alive
    cdef readonly list orphans    # entries of calls that are over
    cdef dict evicted             # id of an owner whose copy made room -> weak ref
    cdef uint64_t state           # of the random numbers
    cdef uint64_t last_number     # of an entry
