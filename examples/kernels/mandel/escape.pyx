# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""One row of the Mandelbrot set, and whole pictures of it.

Rows differ: those through the set take a hundred times longer than those beside it.
So a fixed share of rows for each core would leave all but one of them waiting.
"""

cimport cypar.nogil

from libc.stdint cimport int64_t


cdef int64_t escape_row(
    int64_t* steps, int64_t n, double y, double left, double right, int64_t limit
) noexcept nogil:
    cdef double a, b, a2, b2, x, width = (right - left) / n
    cdef int64_t i, k, total = 0
    for i in range(n):
        x = left + i * width
        a = b = a2 = b2 = 0.0
        k = 0
        while k < limit and a2 + b2 <= 4.0:
            b = 2.0 * a * b + y
            a = a2 - b2 + x
            a2 = a * a
            b2 = b * b
            k += 1
        steps[i] = k
        total += k
    return total


# ---- a whole picture: the loop in C, too ---------------------------------------------

cdef struct Picture:
    int64_t* steps
    int64_t n_rows, n_columns, limit
    double left, right, bottom, top


# A body gets a piece of the range. It may run on several threads at once, so it only
# writes the rows begin..end; it could fail with `raise`, since it is `except -1`.
cdef int rows(void* context, Py_ssize_t begin, Py_ssize_t end) except -1 nogil:
    cdef Picture* p = <Picture*>context
    cdef double height = (p.top - p.bottom) / p.n_rows
    cdef Py_ssize_t i
    for i in range(begin, end):
        escape_row(
            p.steps + i * p.n_columns, p.n_columns, p.bottom + i * height,
            p.left, p.right, p.limit,
        )
    return 0


def picture(int64_t[:, ::1] steps, box, int64_t limit, int n_jobs=-1):
    """Fill `steps` with a picture of ``box = (left, right, bottom, top)``."""
    cdef Picture p
    p.steps = &steps[0, 0]
    p.n_rows, p.n_columns = steps.shape[0], steps.shape[1]
    p.left, p.right, p.bottom, p.top = box
    p.limit = limit
    cypar.nogil.parallel_for(rows, &p, p.n_rows, 0, n_jobs)


# ---- a reduction -----------------------------------------------------------------

# Each thread counts into a part of its own; `add_int64` adds the parts.
cdef int inside(
    void* context, void* part, Py_ssize_t begin, Py_ssize_t end
) except -1 nogil:
    cdef Picture* p = <Picture*>context
    cdef int64_t n = 0
    cdef Py_ssize_t i
    for i in range(begin * p.n_columns, end * p.n_columns):
        n += p.steps[i] == p.limit
    (<int64_t*>part)[0] += n
    return 0


def count_inside(int64_t[:, ::1] steps, int64_t limit, int n_jobs=-1):
    """Return how many points of a picture have not escaped."""
    cdef Picture p
    cdef int64_t total = 0
    p.steps = &steps[0, 0]
    p.n_rows, p.n_columns, p.limit = steps.shape[0], steps.shape[1], limit
    cypar.nogil.parallel_reduce(
        inside, cypar.nogil.add_int64, &p, &total, sizeof(total), p.n_rows, 0, n_jobs
    )
    return total
