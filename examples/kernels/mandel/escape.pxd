"""What other Cython modules, and `cypar.Kernel`, can call."""

from libc.stdint cimport int64_t

# Steps until each of n points of one row escapes, at most `limit`; returns their sum.
cdef int64_t escape_row(
    int64_t* steps, int64_t n, double y, double left, double right, int64_t limit
) noexcept nogil
