"""The tasks of a call that were drawn and that nobody has claimed."""

from cpython.object cimport PyObject


cdef class TaskFifo:
    cdef PyObject** ring              # owned references
    cdef Py_ssize_t capacity          # slots in ring, a power of two
    cdef Py_ssize_t head              # slot of the oldest task
    cdef readonly Py_ssize_t pending  # tasks in it

    cdef int push(self, object payload) except -1
    cdef PyObject* peek(self) noexcept
    cdef PyObject* shift(self) noexcept
    cdef void clear(self) noexcept
