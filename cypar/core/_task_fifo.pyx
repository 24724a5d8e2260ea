"""The tasks of a call that were drawn and that nobody has claimed: a ring that grows.

Thread safety: every method runs under the GIL and does not release it.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_INCREF, PyObject, Py_XDECREF


cdef class TaskFifo:
    """A FIFO of owned references, for a subclass that fills it."""

    def __cinit__(self):
        self.capacity = 64
        self.ring = <PyObject**>PyMem_Malloc(self.capacity * sizeof(PyObject*))
        if self.ring == NULL:
            raise MemoryError()

    def __dealloc__(self):
        if self.ring != NULL:
            self.clear()
            PyMem_Free(self.ring)

    cdef int push(self, object payload) except -1:
        """Put one task behind all others."""
        cdef PyObject** ring
        cdef Py_ssize_t i
        if self.pending == self.capacity:
            ring = <PyObject**>PyMem_Malloc(2 * self.capacity * sizeof(PyObject*))
            if ring == NULL:
                raise MemoryError()
            for i in range(self.pending):
                ring[i] = self.ring[(self.head + i) & (self.capacity - 1)]
            PyMem_Free(self.ring)
            self.ring = ring
            self.head = 0
            self.capacity *= 2
        Py_INCREF(payload)  # given back by whoever shifts it, or `clear`
        self.ring[(self.head + self.pending) & (self.capacity - 1)] = <PyObject*>payload
        self.pending += 1
        return 0

    cdef PyObject* peek(self) noexcept:
        """The oldest task (a borrowed reference), or NULL."""
        return self.ring[self.head] if self.pending else NULL

    cdef PyObject* shift(self) noexcept:
        """Take out the oldest task, whose reference is the caller's now."""
        cdef PyObject* payload = self.ring[self.head]
        self.head = (self.head + 1) & (self.capacity - 1)
        self.pending -= 1
        return payload

    cdef void clear(self) noexcept:
        """Drop all tasks."""
        while self.pending:
            Py_XDECREF(self.shift())
