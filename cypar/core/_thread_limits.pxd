"""What the chunks of a map need: OpenMP is limited without the GIL."""

cdef enum:
    MAX_OPENMP = 4      # runtimes in one process; more are left alone

# OpenMP's runtimes, and how many threads a worker may have of each.
cdef struct OpenMP:
    int n_threads
    int n
    int (*get[MAX_OPENMP])() noexcept nogil
    void (*set[MAX_OPENMP])(int n) noexcept nogil

cdef int find_openmp(object limits, OpenMP* openmp) except -1
cdef void limit_openmp(const OpenMP* openmp, int* before) noexcept nogil
cdef void restore_openmp(const OpenMP* openmp, const int* before) noexcept nogil
