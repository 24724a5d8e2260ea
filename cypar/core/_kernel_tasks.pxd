"""Kernels as tasks of the thread backend."""

cdef int register(object kernel_type) except -1
