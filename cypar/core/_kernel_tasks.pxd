"""Kernels as tasks of the thread backend."""

cimport cython

from cypar.core._native_call cimport NativeKernel
from cypar.core._packing cimport Frame


@cython.final
cdef class PackedCall:
    """One call of a C function with its arguments as C numbers."""

    cdef Frame frame
    cdef NativeKernel kernel
    cdef tuple task         # as it was drawn; keeps the arguments alive
    cdef object out         # of a ufunc: the array that is its result

cdef int register(object kernel_type) except -1
