"""Copy to shared memory, whose pages may not exist yet; nothing here needs the GIL."""

from libc.stdint cimport int64_t

# 0, or -errno when there is no space for pages that are not there yet
cdef int fill(char* target, int fd, int64_t offset, const char* source, size_t n,
              size_t n_ready, size_t* n_touched, bint two_threads,
              bint in_memory) noexcept nogil
cdef int make_ready(char* target, int fd, int64_t offset, size_t n, size_t n_ready,
                    size_t n_touched) noexcept nogil
