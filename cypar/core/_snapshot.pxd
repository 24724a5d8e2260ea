"""Tell whether plain data is unchanged, without pickling it again."""

from cpython.object cimport PyObject


cdef struct Item:
    PyObject* obj       # owned
    Py_ssize_t size     # of a container whose content follows; -1 for anything else


cdef class Snapshot:
    cdef Item* items
    cdef Py_ssize_t n, capacity
    cdef readonly object payload  # what was made of the object

    cdef bint push(self, object obj, Py_ssize_t size) except -1
    cdef bint record(self, object obj, int depth) except -1
    cdef bint check(self, object obj, Py_ssize_t* place) except -1
