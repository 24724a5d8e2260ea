"""The tasks of a call that were drawn and that nobody has claimed."""

from cpython.object cimport PyObject


# A task: what a backend made of it, or, if there is a function, only its arguments.
cdef struct Waiting:
    PyObject* payload
    PyObject* function                # NULL: the payload is everything


cdef class TaskFifo:
    cdef Waiting* ring                # owned references
    cdef Py_ssize_t capacity          # slots in ring, a power of two
    cdef Py_ssize_t head              # slot of the oldest task
    cdef readonly Py_ssize_t pending  # tasks in it

    cdef int push(self, object payload, PyObject* function) except -1
    cdef Waiting* peek(self) noexcept
    cdef Waiting shift(self) noexcept
    cdef void clear(self) noexcept
