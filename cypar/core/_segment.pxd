"""Shared memory that large buffers are copied to, and who still uses it."""

from libc.stdint cimport uint64_t

from cypar.core._status_page cimport StatusPage


cdef class Segment:
    cdef readonly int fd
    cdef readonly object path          # name of the file; None for memory without one
    cdef readonly uint64_t serial      # never used again for another segment
    cdef readonly uint64_t inode
    cdef readonly Py_ssize_t capacity  # bytes of address space
    cdef readonly Py_ssize_t allocated  # bytes, from the beginning, that have pages
    cdef Py_ssize_t touched            # of these, bytes whose pages are mapped here
    cdef char* base
    cdef bint in_memory                # not a file on some disk
    cdef readonly Py_ssize_t pins      # parcels and copies under way that use it
    cdef readonly bint claimed         # about to be emptied or closed
    cdef readonly bint retired         # must not be written any more
    cdef public bint is_slab           # holds several small buffers
    cdef public Py_ssize_t cursor      # of a slab: bytes given away
    cdef public uint64_t used          # arena's clock at the last use
    cdef readonly list entries         # registry entries whose content it holds
    cdef list holders                  # Leases of workers that got it

    cdef int check(self, Py_ssize_t offset, Py_ssize_t n) except -1
    cdef int note_hole(self) except -1
    cdef int note_filled(self, Py_ssize_t end, Py_ssize_t touched) except -1
    cpdef bint is_leased(self)
    cpdef bint is_idle(self)
    cpdef Pin pin(self)
    cpdef Pin claim(self, bint to_close=*)
    cpdef tuple take_piece(self, Py_ssize_t n, Py_ssize_t alignment)


cdef class Pin:
    cdef readonly Segment segment
    cdef bint is_claim                 # keeps everybody else away, too


cdef class Leases:
    cdef StatusPage page
    cdef dict slots                    # serial -> slot
    cdef list segments                 # by slot: Segment or None
    cdef list sent                     # by slot: leases given out
    cdef list closed                   # slots whose segment is no more
    cdef Py_ssize_t oldest             # where to look for a slot to use again

    cdef bint is_live(self, Py_ssize_t slot)
    cdef Py_ssize_t free_slot(self) except -1
