"""The tasks of a call that were drawn and that nobody has claimed: a ring that grows.

Thread safety: every method runs under the GIL and does not release it.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_INCREF, PyObject, Py_XDECREF, Py_XINCREF


cdef class TaskFifo:
    """A FIFO of owned references, for a subclass that fills it."""

    def __cinit__(self):
        self.capacity = 64
        self.ring = <Waiting*>PyMem_Malloc(self.capacity * sizeof(Waiting))
        if self.ring == NULL:
            raise MemoryError()

    def __dealloc__(self):
        if self.ring != NULL:
            self.clear()
            PyMem_Free(self.ring)

    cdef int push(self, object payload, PyObject* function) except -1:
        """Put one task behind all others."""
        cdef Waiting* ring
        cdef Waiting* place
        cdef Py_ssize_t i
        if self.pending == self.capacity:
            ring = <Waiting*>PyMem_Malloc(2 * self.capacity * sizeof(Waiting))
            if ring == NULL:
                raise MemoryError()
            for i in range(self.pending):
                ring[i] = self.ring[(self.head + i) & (self.capacity - 1)]
            PyMem_Free(self.ring)
            self.ring = ring
            self.head = 0
            self.capacity *= 2
        Py_INCREF(payload)  # given back by whoever shifts it, or `clear`
        Py_XINCREF(function)
        place = &self.ring[(self.head + self.pending) & (self.capacity - 1)]
        place.payload = <PyObject*>payload
        place.function = function
        self.pending += 1
        return 0

    cdef Waiting* peek(self) noexcept:
        """The oldest task, still in its place (references are borrowed), or NULL."""
        return &self.ring[self.head] if self.pending else NULL

    cdef Waiting shift(self) noexcept:
        """Take out the oldest task, whose references are the caller's now."""
        cdef Waiting task = self.ring[self.head]
        self.head = (self.head + 1) & (self.capacity - 1)
        self.pending -= 1
        return task

    cdef void clear(self) noexcept:
        """Drop all tasks."""
        cdef Waiting task
        while self.pending:
            task = self.shift()
            Py_XDECREF(task.payload)
            Py_XDECREF(task.function)
