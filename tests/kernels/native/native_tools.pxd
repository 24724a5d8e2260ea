"""What the bodies of these tests share: burn, sleep, count."""

from libc.stdint cimport int64_t
from posix.time cimport nanosleep, timespec

cdef extern from *:
    """
    static inline void test_burn(volatile long long *sink, long long n) {
        for (long long i = 0; i < n; i++) *sink += i;
    }
    #define test_add(p, n) __atomic_fetch_add(p, n, __ATOMIC_SEQ_CST)
    #define test_load(p) __atomic_load_n(p, __ATOMIC_SEQ_CST)
    """
    void test_burn(long long* sink, long long n) noexcept nogil
    int64_t test_add(int64_t* p, int64_t n) noexcept nogil
    int64_t test_load(int64_t* p) noexcept nogil


cdef inline void sleep_us(long us) noexcept nogil:
    cdef timespec t
    t.tv_sec = us // 1000000
    t.tv_nsec = (us % 1000000) * 1000
    nanosleep(&t, NULL)
