"""Parallel loops, reductions and task groups for Cython code that holds no GIL.

``cimport cypar.nogil`` needs no header and no library. Everything here may be called
with or without the GIL; a caller that holds it lets go of it meanwhile.
"""

# A piece of the range begin <= i < end. Returns 0, or -1 with an exception set.
ctypedef int (*range_body)(
    void* context, Py_ssize_t begin, Py_ssize_t end
) except -1 nogil

cdef int parallel_for(
    range_body body, void* context, Py_ssize_t n, Py_ssize_t grain, int n_jobs
) except -1 nogil

cdef int worker_slot() noexcept nogil
cdef int worker_count(int n_jobs) noexcept nogil
cdef bint cancel_requested() noexcept nogil

# Works on a piece into `part`, which belongs to this thread for the whole loop.
ctypedef int (*reduce_body)(
    void* context, void* part, Py_ssize_t begin, Py_ssize_t end
) except -1 nogil
# Adds one thread's part to the total.
ctypedef void (*combine_body)(
    void* context, void* total, const void* part
) noexcept nogil

cdef int parallel_reduce(
    reduce_body body, combine_body combine, void* context, void* total, size_t size,
    Py_ssize_t n, Py_ssize_t grain, int n_jobs
) except -1 nogil

cdef void add_double(void* context, void* total, const void* part) noexcept nogil
cdef void add_int64(void* context, void* total, const void* part) noexcept nogil

# Returns 0, or -1 with an exception set.
ctypedef int (*task_body)(void* context) except -1 nogil

cdef class TaskGroup:
    cdef void* group

    cdef int spawn(self, task_body body, void* context) except -1 nogil
    cdef int wait(self) except -1 nogil
