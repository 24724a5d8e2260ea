"""`Kernel.map`: one range job over the rows of arrays."""

from cypar.core._native_call cimport NativeKernel

cdef object map_rows(
    NativeKernel kernel, tuple values, object out, object n_jobs, object grain
)
