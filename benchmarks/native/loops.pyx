# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The same loops in four ways: plain C, cypar, Cython's prange, and by bare threads.

Where the compiler has no OpenMP, prange is a plain loop: `has_openmp` tells.
"""

from cython.parallel cimport prange
from libc.stdint cimport int32_t, int64_t

from cypar.nogil cimport parallel_for

cdef extern from *:
    """
    #ifdef _OPENMP
    #define LOOPS_HAVE_OPENMP 1
    #else
    #define LOOPS_HAVE_OPENMP 0
    #endif
    """
    int LOOPS_HAVE_OPENMP

has_openmp = bool(LOOPS_HAVE_OPENMP)



# ---- items of a given length -----------------------------------------------------


cdef inline double item(int32_t steps) noexcept nogil:
    """Multiply and add: each step waits for the one before, so nothing is vectorised."""
    cdef double x = 1.0
    cdef int32_t i
    for i in range(steps):
        x = x * 0.999 + 0.5
    return x


cdef struct Items:
    const int32_t* steps
    double* out


cdef int some_items(void* context, Py_ssize_t begin, Py_ssize_t end) except -1 nogil:
    cdef Items* items = <Items*>context
    cdef Py_ssize_t i
    for i in range(begin, end):
        items.out[i] = item(items.steps[i])
    return 0


def items_serial(const int32_t[::1] steps, double[::1] out, int repeat=1):
    cdef Py_ssize_t i, n = steps.shape[0]
    cdef int _turn
    with nogil:
        for _turn in range(repeat):
            for i in range(n):
                out[i] = item(steps[i])


def items_cypar(const int32_t[::1] steps, double[::1] out, int repeat=1, int n_jobs=2):
    cdef Items items
    cdef Py_ssize_t n = steps.shape[0]
    cdef int _turn
    items.steps = &steps[0]
    items.out = &out[0]
    with nogil:
        for _turn in range(repeat):
            parallel_for(some_items, &items, n, 0, n_jobs)


def items_static(const int32_t[::1] steps, double[::1] out, int repeat=1):
    cdef Py_ssize_t i, n = steps.shape[0]
    cdef int _turn
    with nogil:
        for _turn in range(repeat):
            for i in prange(n, schedule="static", num_threads=2):
                out[i] = item(steps[i])


def items_dynamic(const int32_t[::1] steps, double[::1] out, int repeat=1):
    cdef Py_ssize_t i, n = steps.shape[0]
    cdef int _turn
    with nogil:
        for _turn in range(repeat):
            for i in prange(n, schedule="dynamic", chunksize=64, num_threads=2):
                out[i] = item(steps[i])


def items_guided(const int32_t[::1] steps, double[::1] out, int repeat=1):
    cdef Py_ssize_t i, n = steps.shape[0]
    cdef int _turn
    with nogil:
        for _turn in range(repeat):
            for i in prange(n, schedule="guided", chunksize=64, num_threads=2):
                out[i] = item(steps[i])


# ---- as much memory as possible --------------------------------------------------


cdef api double row_sum(const double* x, int64_t n) noexcept nogil:
    """Eight sums at once, or the additions would be slower than the memory."""
    cdef double s[8]
    cdef int64_t i, k
    for k in range(8):
        s[k] = 0.0
    for i in range(0, n - 7, 8):
        for k in range(8):
            s[k] += x[i + k]
    for i in range(n - n % 8, n):
        s[0] += x[i]
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]))


cdef api double nothing(const double* x, int64_t n) noexcept nogil:
    """A call and a load."""
    return x[0]


cdef struct Rows:
    const double* x
    Py_ssize_t n
    double* out


cdef int some_rows(void* context, Py_ssize_t begin, Py_ssize_t end) except -1 nogil:
    cdef Rows* rows = <Rows*>context
    cdef Py_ssize_t i
    for i in range(begin, end):
        rows.out[i] = row_sum(rows.x + i * rows.n, rows.n)
    return 0


def rows_serial(const double[:, ::1] x, double[::1] out, Py_ssize_t begin=0, end=None):
    cdef Py_ssize_t i, n = x.shape[1], last = x.shape[0] if end is None else end
    with nogil:
        for i in range(begin, last):
            out[i] = row_sum(&x[i, 0], n)


def rows_cypar(const double[:, ::1] x, double[::1] out):
    cdef Rows rows
    rows.x, rows.n, rows.out = &x[0, 0], x.shape[1], &out[0]
    parallel_for(some_rows, &rows, x.shape[0], 0, 2)


def rows_static(const double[:, ::1] x, double[::1] out):
    cdef Py_ssize_t i, n = x.shape[1]
    for i in prange(x.shape[0], nogil=True, schedule="static", num_threads=2):
        out[i] = row_sum(&x[i, 0], n)


def rows_dynamic(const double[:, ::1] x, double[::1] out):
    cdef Py_ssize_t i, n = x.shape[1]
    for i in prange(
        x.shape[0], nogil=True, schedule="dynamic", chunksize=64, num_threads=2
    ):
        out[i] = row_sum(&x[i, 0], n)


ctypedef double (*row_function)(const double* x, int64_t n) noexcept nogil
cdef row_function _nothing = nothing  # as a kernel is called: through a pointer


def nothing_serial(const double[:, ::1] x, double[::1] out):
    cdef Py_ssize_t i, n = x.shape[1]
    with nogil:
        for i in range(x.shape[0]):
            out[i] = _nothing(&x[i, 0], n)


cdef struct Vectors:
    const double* x
    double* y


cdef int some_axpy(void* context, Py_ssize_t begin, Py_ssize_t end) except -1 nogil:
    cdef Vectors* v = <Vectors*>context
    cdef Py_ssize_t i
    for i in range(begin, end):
        v.y[i] += 1e-9 * v.x[i]
    return 0


def axpy_serial(const double[::1] x, double[::1] y, Py_ssize_t begin=0, end=None):
    cdef Py_ssize_t i, last = x.shape[0] if end is None else end
    with nogil:
        for i in range(begin, last):
            y[i] += 1e-9 * x[i]


def axpy_cypar(const double[::1] x, double[::1] y):
    cdef Vectors v
    v.x, v.y = &x[0], &y[0]
    parallel_for(some_axpy, &v, x.shape[0], 0, 2)


def axpy_static(const double[::1] x, double[::1] y):
    cdef Py_ssize_t i
    for i in prange(x.shape[0], nogil=True, schedule="static", num_threads=2):
        y[i] += 1e-9 * x[i]


def axpy_dynamic(const double[::1] x, double[::1] y):
    cdef Py_ssize_t i
    for i in prange(
        x.shape[0], nogil=True, schedule="dynamic", chunksize=65536, num_threads=2
    ):
        y[i] += 1e-9 * x[i]


# ---- interruption ----------------------------------------------------------------


cdef int some_time(void* context, Py_ssize_t begin, Py_ssize_t end) except -1 nogil:
    """Items of some 30 us."""
    cdef Py_ssize_t i
    for i in range(begin, end):
        (<double*>context)[0] = item(10_000)
    return 0


def run_long(Py_ssize_t n):
    """A loop of n items of some 30 us."""
    cdef double sink = 0.0
    parallel_for(some_time, &sink, n, 0, 2)
