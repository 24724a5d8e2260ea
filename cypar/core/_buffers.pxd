"""Where the memory of a Python object is, and copies of it that are Python objects."""

from cypar.core._copying cimport Strided

cdef Py_ssize_t set_strided(Strided* view, tuple layout) except -1
