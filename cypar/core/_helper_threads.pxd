"""Parked threads that run jobs, and the word a thread parks on."""

from libc.stdint cimport int64_t, uint32_t


cdef int64_t SPIN_NS            # how long a wait spins before it sleeps; 0 on one CPU


cdef class Parker:
    cdef uint32_t word              # 0 parked or about to park, 1 unparked
    cdef Py_ssize_t task_index      # task that runs on this thread, -1 for none
    cdef int64_t started_ns         # monotonic time of that task's start
    cdef Py_ssize_t index           # number of the worker within its call

    cdef int park(self, int64_t timeout_ns) except -1
    cdef void unpark(self) noexcept
