"""Run the chunks of a range on the caller and on helper threads, without the GIL."""

# Returns -1 for a failure, with a Python exception set on the calling thread.
ctypedef int (*range_body)(
    void* context, Py_ssize_t begin, Py_ssize_t end
) except -1 nogil

cdef int run_range(
    range_body body, void* context, Py_ssize_t n, Py_ssize_t grain, int n_jobs,
    const void* key
) noexcept nogil
