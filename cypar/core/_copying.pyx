"""Compare and fingerprint large blocks of memory, and copy views, without the GIL.

Thread safety: plain functions; the caller keeps the memory alive and to itself.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from cypar.core._port cimport (
    port_prefetch, port_thread_start, pthread_join, pthread_t,
)

cdef size_t PAGE = 4096
cdef size_t LINE = 64                # bytes of a cache line
# Lines from one sample to the next: one of two numbers by chance, so that no row length
# keeps in step with the samples.
cdef size_t LONGER = 2
cdef size_t SAMPLE_IN_TWO = (32 << 20) // 61  # bytes per step; 0.35 ms in one thread
cdef size_t COMPARE_IN_TWO = 8 << 20  # 0.7 ms in one thread
cdef uint64_t ODD = 0x9E3779B97F4A7C15


# ---- views whose elements are apart ----------------------------------------------


cdef inline bint equal_items(
    const char* a, const char* b, Py_ssize_t size
) noexcept nogil:
    if size == 8:
        return (<const uint64_t*>a)[0] == (<const uint64_t*>b)[0]
    return memcmp(a, b, size) == 0


cdef void copy_row(char* target, const char* source, Py_ssize_t n, Py_ssize_t stride,
                   Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    if stride == size:
        memcpy(target, source, n * size)
    elif size == 8:
        for i in range(n):
            memcpy(target + i * 8, source + i * stride, 8)
    elif size == 4:
        for i in range(n):
            memcpy(target + i * 4, source + i * stride, 4)
    elif size == 1:
        for i in range(n):
            target[i] = source[i * stride]
    else:
        for i in range(n):
            memcpy(target + i * size, source + i * stride, size)


cdef bint equal_row(const char* copy, const char* source, Py_ssize_t n,
                    Py_ssize_t stride, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t i
    if stride == size:
        return memcmp(copy, source, n * size) == 0
    for i in range(n):
        if not equal_items(copy + i * size, source + i * stride, size):
            return False
    return True


cdef const char* next_row(const Strided* view, Py_ssize_t* index,
                          const char* row) noexcept nogil:
    """Advance to the next run along the last axis; NULL after the last one."""
    cdef int axis = view.ndim - 2
    while axis >= 0:
        index[axis] += 1
        row += view.strides[axis]
        if index[axis] < view.shape[axis]:
            return row
        row -= view.shape[axis] * view.strides[axis]
        index[axis] = 0
        axis -= 1
    return NULL


cdef void copy_strided(char* target, const Strided* source) noexcept nogil:
    """Write the elements one after the other."""
    cdef Py_ssize_t index[MAX_DIMS]
    cdef int last = source.ndim - 1, axis
    cdef const char* row = source.first
    for axis in range(source.ndim):
        index[axis] = 0
    while row != NULL:
        copy_row(target, row, source.shape[last], source.strides[last], source.itemsize)
        target += source.shape[last] * source.itemsize
        row = next_row(source, index, row)


cdef bint equal_strided(const char* copy, const Strided* source) noexcept nogil:
    """Whether `copy_strided` would write what is there."""
    cdef Py_ssize_t index[MAX_DIMS]
    cdef int last = source.ndim - 1, axis
    cdef const char* row = source.first
    for axis in range(source.ndim):
        index[axis] = 0
    while row != NULL:
        if not equal_row(
            copy, row, source.shape[last], source.strides[last], source.itemsize
        ):
            return False
        copy += source.shape[last] * source.itemsize
        row = next_row(source, index, row)
    return True


# ---- comparing all of a block ----------------------------------------------------


cdef struct Comparing:
    const char* copy
    const char* source
    size_t n
    size_t step            # lines from one sample to the next
    uint64_t seed          # of the samples
    bint equal             # the answer


cdef void* comparing_thread(void* argument) noexcept nogil:
    cdef Comparing* job = <Comparing*>argument
    job.equal = memcmp(job.copy, job.source, job.n) == 0
    return NULL


cdef bint equal_bytes(const char* copy, const char* source, size_t n,
                      bint two_threads) noexcept nogil:
    """Compare all bytes."""
    cdef Comparing job
    cdef pthread_t thread
    cdef size_t half = (n // 2) & ~(PAGE - 1)
    cdef bint equal
    if not two_threads or n < COMPARE_IN_TWO:
        return memcmp(copy, source, n) == 0
    job.copy = copy + half
    job.source = source + half
    job.n = n - half
    if port_thread_start(&thread, &comparing_thread, &job) != 0:
        return memcmp(copy, source, n) == 0
    equal = memcmp(copy, source, half) == 0
    pthread_join(thread, NULL)
    return equal and job.equal


# ---- samples and fingerprints ------------------------------------------------------


cdef uint64_t next_random(uint64_t* state) noexcept nogil:
    """xorshift64: good enough to choose samples."""
    state[0] ^= state[0] << 13
    state[0] ^= state[0] >> 7
    state[0] ^= state[0] << 17
    return state[0]


cdef bint equal_line(const char* a, const char* b) noexcept nogil:
    cdef const uint64_t* x = <const uint64_t*>a
    cdef const uint64_t* y = <const uint64_t*>b
    cdef uint64_t difference = 0
    cdef int i
    for i in range(8):
        difference |= x[i] ^ y[i]
    return difference == 0


cdef void* sampling_thread(void* argument) noexcept nogil:
    cdef Comparing* job = <Comparing*>argument
    job.equal = equal_samples_of(job.copy, job.source, job.n, job.step, job.seed)
    return NULL


cdef bint equal_samples(const char* copy, const char* source, size_t n, size_t step,
                        uint64_t seed, bint two_threads) noexcept nogil:
    """Compare one cache line in each ``step`` or ``step + 2``, from a random one on."""
    cdef Comparing job
    cdef pthread_t thread
    cdef size_t half = (n // 2) & ~(PAGE - 1)
    cdef bint equal
    if not two_threads or n // step < SAMPLE_IN_TWO:
        return equal_samples_of(copy, source, n, step, seed)
    job.copy = copy + half
    job.source = source + half
    job.n = n - half
    job.step = step
    job.seed = seed * ODD
    if port_thread_start(&thread, &sampling_thread, &job) != 0:
        return equal_samples_of(copy, source, n, step, seed)
    equal = equal_samples_of(copy, source, half, step, seed)
    pthread_join(thread, NULL)
    return equal and job.equal


cdef bint equal_samples_of(const char* copy, const char* source, size_t n, size_t step,
                           uint64_t seed) noexcept nogil:
    """Compare samples 64 at a time, fetched ahead.

    Each line is a cache miss, and most are a TLB miss, too.
    """
    cdef uint64_t state = seed | 1, bits
    cdef size_t n_lines = n // LINE, line, place
    cdef size_t places[64]
    cdef int i, count
    if n_lines * LINE < n and memcmp(
        copy + n_lines * LINE, source + n_lines * LINE, n - n_lines * LINE
    ) != 0:
        return False
    line = next_random(&state) % step
    while line < n_lines:
        bits = next_random(&state)
        count = 0
        while count < 64 and line < n_lines:
            place = line * LINE
            places[count] = place
            count += 1
            port_prefetch(copy + place)
            port_prefetch(source + place)
            line += step + LONGER * (bits & 1)
            bits >>= 1
        for i in range(count):
            if not equal_line(copy + places[i], source + places[i]):
                return False
    return True


cdef bint equal_samples_strided(const char* copy, const Strided* source,
                                uint64_t seed) noexcept nogil:
    """Compare one element in each 4 KiB of the copy."""
    cdef uint64_t state = seed | 1
    cdef Py_ssize_t n = 1, every, position, rest
    cdef const char* item
    cdef int axis
    for axis in range(source.ndim):
        n *= source.shape[axis]
    every = max(1, <Py_ssize_t>(PAGE // <size_t>source.itemsize))
    position = <Py_ssize_t>(next_random(&state) % <uint64_t>every)
    while position < n:
        rest = position
        item = source.first
        for axis in range(source.ndim - 1, -1, -1):
            item += (rest % source.shape[axis]) * source.strides[axis]
            rest //= source.shape[axis]
        if not equal_items(copy + position * source.itemsize, item, source.itemsize):
            return False
        position += 1 + <Py_ssize_t>(next_random(&state) % <uint64_t>(2 * every - 1))
    return True


cdef inline uint64_t rotated(uint64_t x) noexcept nogil:
    """Bring high bits down: multiplication alone only moves them up and out."""
    return (x << 29) | (x >> 35)


cdef uint64_t fingerprint(const char* data, size_t n) noexcept nogil:
    """A hash of all bytes, for segments that workers may write to."""
    cdef uint64_t a = 1, b = 2, c = 3, d = 4
    cdef const uint64_t* words = <const uint64_t*>data
    cdef size_t n_groups = n // 32, i
    for i in range(n_groups):
        a = (rotated(a) ^ words[4 * i]) * ODD
        b = (rotated(b) ^ words[4 * i + 1]) * ODD
        c = (rotated(c) ^ words[4 * i + 2]) * ODD
        d = (rotated(d) ^ words[4 * i + 3]) * ODD
    for i in range(32 * n_groups, n):
        a = (rotated(a) ^ <uint8_t>data[i]) * ODD
    a = (a ^ (a >> 31)) * ODD + b
    a = (a ^ (a >> 31)) * ODD + c
    a = (a ^ (a >> 31)) * ODD + d
    return a ^ (a >> 32)


cdef uint64_t fingerprint_strided(const Strided* source) noexcept nogil:
    """A hash of all elements; slower, for views that workers may write to."""
    cdef Py_ssize_t index[MAX_DIMS]
    cdef int last = source.ndim - 1, axis
    cdef Py_ssize_t i
    cdef uint64_t total = 1
    cdef const char* row = source.first
    for axis in range(source.ndim):
        index[axis] = 0
    while row != NULL:
        for i in range(source.shape[last]):
            total = (rotated(total) * ODD) ^ fingerprint(
                row + i * source.strides[last], source.itemsize
            )
        row = next_row(source, index, row)
    return total


def common_ends(bytes a, bytes b):
    """How many bytes two strings have in common at the beginning, and at the end.

    The two parts do not overlap in either string.

    Examples
    --------
    >>> common_ends(b"abcde", b"abXde")
    (2, 2)
    >>> common_ends(b"aaa", b"aa")
    (2, 0)
    """
    cdef const char* x = PyBytes_AS_STRING(a)
    cdef const char* y = PyBytes_AS_STRING(b)
    cdef Py_ssize_t n = min(len(a), len(b)), prefix, suffix = 0
    cdef const char* end_x = x + len(a)
    cdef const char* end_y = y + len(b)
    prefix = common_prefix(x, y, n)
    n -= prefix
    while (
        n - suffix >= 64
        and memcmp(end_x - suffix - 64, end_y - suffix - 64, 64) == 0
    ):
        suffix += 64
    while suffix < n and end_x[-suffix - 1] == end_y[-suffix - 1]:
        suffix += 1
    return prefix, suffix


cdef Py_ssize_t common_prefix(
    const char* x, const char* y, Py_ssize_t n
) noexcept nogil:
    cdef Py_ssize_t prefix = 0
    while n - prefix >= 64 and memcmp(x + prefix, y + prefix, 64) == 0:
        prefix += 64
    while prefix < n and x[prefix] == y[prefix]:
        prefix += 1
    return prefix
