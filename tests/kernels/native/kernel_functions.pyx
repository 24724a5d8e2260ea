# cython: language_level=3, boundscheck=False, wraparound=False
"""C functions of all kinds for tests of Kernel."""

from libc.math cimport sqrt
from libc.stdint cimport (
    int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t,
)
from posix.time cimport nanosleep, timespec

cdef extern from "Python.h":
    void PyErr_SetNone(object kind)     # without Cython looking at it

cdef extern from *:
    """
    static int64_t test_calls = 0, test_inside = 0, test_most = 0;
    static void test_enter(void) {
        int64_t now = __atomic_add_fetch(&test_inside, 1, __ATOMIC_SEQ_CST);
        __atomic_add_fetch(&test_calls, 1, __ATOMIC_SEQ_CST);
        int64_t most = __atomic_load_n(&test_most, __ATOMIC_SEQ_CST);
        while (now > most && !__atomic_compare_exchange_n(
                   &test_most, &most, now, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
        }
    }
    static void test_leave(void) {
        __atomic_sub_fetch(&test_inside, 1, __ATOMIC_SEQ_CST);
    }
    """
    int64_t test_calls
    int64_t test_inside
    int64_t test_most
    void test_enter() noexcept nogil
    void test_leave() noexcept nogil


def take_counts():
    """(calls of `sleep_ms`, most of them at the same time) since the last time."""
    global test_calls, test_most
    counts = test_calls, test_most
    test_calls = test_most = 0
    return counts


# ---- the usual ones --------------------------------------------------------------


cdef api double row_sum(const double* x, int64_t n) noexcept nogil:
    cdef double total = 0.0
    cdef int64_t i
    for i in range(n):
        total += x[i]
    return total


cdef api void scale(double* x, int64_t n, double factor) noexcept nogil:
    cdef int64_t i
    for i in range(n):
        x[i] *= factor


cdef api double distance(
    const double* x, const double* y, int64_t n
) noexcept nogil:
    cdef double total = 0.0
    cdef int64_t i
    for i in range(n):
        total += (x[i] - y[i]) * (x[i] - y[i])
    return sqrt(total)


cdef api double nothing() noexcept nogil:
    return 7.0


cdef api int call_int(int64_t address) noexcept nogil:
    return (<int (*)() noexcept nogil><void*>address)()


cdef api int64_t sleep_ms(int64_t ms) noexcept nogil:
    cdef timespec t
    test_enter()
    t.tv_sec = ms // 1000
    t.tv_nsec = (ms % 1000) * 1000000
    nanosleep(&t, NULL)
    test_leave()
    return ms


cpdef api double half(double x) noexcept nogil:
    return x / 2


# ---- exact types -------------------------------------------------------------------


cdef api float add_f(float a, float b) noexcept nogil:
    return a + b


cdef api int32_t neg_i(int32_t a) noexcept nogil:
    return -a


cdef api uint32_t inc_u(uint32_t a) noexcept nogil:
    return a + 1


cdef api int16_t inc_h(int16_t a) noexcept nogil:
    return <int16_t>(a + 1)


cdef api uint16_t inc_H(uint16_t a) noexcept nogil:
    return <uint16_t>(a + 1)


cdef api int8_t inc_b(int8_t a) noexcept nogil:
    return <int8_t>(a + 1)


cdef api uint8_t inc_B(uint8_t a) noexcept nogil:
    return <uint8_t>(a + 1)


cdef api uint64_t inc_Q(uint64_t a) noexcept nogil:
    return a + 1


cdef api int64_t inc_q(int64_t a) noexcept nogil:
    return a + 1


cdef api double mix6(
    int64_t a, double b, int64_t c, double d, double e, int64_t f
) noexcept nogil:
    return a + 10 * b + 100 * c + 1000 * d + 10000 * e + 100000 * f


cdef api int sums_of_rows(
    const double* x, const double* y, double* out, Py_ssize_t n, double factor
) except -1 nogil:
    cdef Py_ssize_t i
    if factor < 0:
        with gil:
            raise ValueError(f"the factor is {factor}")
    for i in range(n):
        out[i] = x[i] + factor * y[i]
    return 7


cdef api double mix4(int a, float b, double c, int64_t d) noexcept nogil:
    return a + 10 * b + 100 * c + 1000 * d


cdef api float sum_f(const float* x, int n) noexcept nogil:
    cdef float total = 0
    cdef int i
    for i in range(n):
        total += x[i]
    return total


cdef api int64_t sum_bytes(const unsigned char* x, size_t n) noexcept nogil:
    cdef int64_t total = 0
    cdef size_t i
    for i in range(n):
        total += x[i]
    return total


cdef api double first_imag(const double complex* z) noexcept nogil:
    return z[0].imag


cdef api void fill_void(void* x, int64_t n_bytes) noexcept nogil:
    cdef int64_t i
    for i in range(n_bytes):
        (<char*>x)[i] = 1


cdef api double poly(const double* x, int64_t n, int64_t power) noexcept nogil:
    cdef double total = 0.0
    cdef int64_t i
    for i in range(n):
        total += x[i] ** power
    return total


# ---- failures -----------------------------------------------------------------------


cdef api int fail_negative(int64_t i) noexcept nogil:
    return -5 if i == 13 else 0


cdef api int fail_raise(int64_t i) except -1 nogil:
    if i % 100 == 13:
        with gil:
            raise ValueError(f"item {i}")
    return 0


cdef api double raise_or_minus_one(double x) except? -1 nogil:
    if x > 100:
        with gil:
            raise ValueError(f"{x} is too much")
    return -1.0


cdef api double raise_undeclared(double x) nogil:
    if x > 100:
        with gil:
            raise ValueError("{} is too much".format(x))  # runs Python code
    return 2 * x


cdef api void raise_void(int64_t i) except * nogil:
    if i == 13:
        with gil:
            raise KeyError(i)


def call_with_exception_set(function):
    """Call a function with a KeyError set, as C code may leave one."""
    PyErr_SetNone(KeyError)
    return function()


# ---- what is refused -----------------------------------------------------------


cdef api object takes_object(object x):
    return x


cdef api double takes_view(double[:] x) noexcept nogil:
    return 0.0


cdef api double seven(
    double a, double b, double c, double d, double e, double f, double g
) noexcept nogil:
    return 0.0


cdef api double five_mixed(
    double a, int b, double c, float d, double e
) noexcept nogil:
    return 0.0


cpdef api double hidden_fifth(double a, double b, double c, double d) noexcept nogil:
    return 0.0


cdef api double pointers(double** x) noexcept nogil:
    return 0.0
