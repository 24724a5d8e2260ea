"""Compare and fingerprint memory, and copy views; nothing here needs the GIL."""

from libc.stdint cimport uint64_t

cdef enum:
    MAX_DIMS = 64  # of a NumPy array
    # Cache lines from one sample to the next. Below 4096 bytes, so that no edited run
    # of 4 KiB falls between two samples:
    DENSE = 61
    # where only devices could have written, at most 64 KiB:
    SPARSE = 1021


cdef struct Strided:
    # A view whose elements do not lie next to each other.
    const char* first              # address of the element with all indexes 0
    Py_ssize_t itemsize
    int ndim                       # at least 1
    Py_ssize_t shape[MAX_DIMS]     # the axis with the longest stride first
    Py_ssize_t strides[MAX_DIMS]


cdef void copy_strided(char* target, const Strided* source) noexcept nogil
cdef bint equal_strided(const char* copy, const Strided* source) noexcept nogil
cdef bint equal_bytes(const char* copy, const char* source, size_t n,
                      bint two_threads) noexcept nogil
cdef bint equal_samples(const char* copy, const char* source, size_t n, size_t step,
                        uint64_t seed, bint two_threads) noexcept nogil
cdef bint equal_samples_strided(const char* copy, const Strided* source,
                                uint64_t seed) noexcept nogil
cdef uint64_t fingerprint(const char* data, size_t n) noexcept nogil
cdef uint64_t next_random(uint64_t* state) noexcept nogil
cdef uint64_t fingerprint_strided(const Strided* source) noexcept nogil
