# cython: language_level=3, boundscheck=False, wraparound=False
"""Loops with bodies that tests can look into."""

from cpython.exc cimport PyErr_SetString
from libc.stdint cimport int64_t

from cypar.nogil cimport (
    cancel_requested, parallel_for, worker_count, worker_slot,
)
from native_tools cimport sleep_us, test_add, test_burn, test_load


# ---- coverage ------------------------------------------------------------------

cdef struct Cover:
    int* counts
    int* slots          # or NULL
    long burn
    int64_t chunks


cdef int cover_body(void* context, Py_ssize_t begin, Py_ssize_t end) except -1 nogil:
    cdef Cover* c = <Cover*>context
    cdef Py_ssize_t i
    cdef long long sink = 0
    test_add(&c.chunks, 1)
    for i in range(begin, end):
        c.counts[i] += 1
        if c.slots != NULL:
            c.slots[i] = worker_slot()
        if c.burn:
            test_burn(&sink, c.burn)
    return 0


def cover(int[::1] counts, Py_ssize_t n, Py_ssize_t grain=0, int n_jobs=-1,
          bint gil=True, int[::1] slots=None, long burn=0):
    """Count how often each item is done; returns the number of chunks."""
    cdef Cover c
    c.counts = &counts[0]
    c.slots = NULL if slots is None else &slots[0]
    c.burn = burn
    c.chunks = 0
    if gil:
        parallel_for(cover_body, &c, n, grain, n_jobs)
    else:
        with nogil:
            parallel_for(cover_body, &c, n, grain, n_jobs)
    return c.chunks


def cover_often(int[::1] counts, Py_ssize_t n, int n_jobs, long burn, int repeat):
    """The same several times in a row."""
    cdef Cover c
    cdef int _turn
    c.counts = &counts[0]
    c.slots = NULL
    c.burn = burn
    c.chunks = 0
    with nogil:
        for _turn in range(repeat):
            parallel_for(cover_body, &c, n, 0, n_jobs)


def count_workers(int n_jobs):
    return worker_count(n_jobs)


def slot_outside():
    return worker_slot(), cancel_requested()


# ---- several threads at once ------------------------------------------------------

cdef struct Meeting:
    int64_t here
    int64_t wanted
    int64_t met


cdef int meet_body(void* context, Py_ssize_t begin, Py_ssize_t end) except -1 nogil:
    cdef Meeting* m = <Meeting*>context
    cdef int tries = 0
    sleep_us(2000)  # an item so long that sleeping helpers are woken for it
    test_add(&m.here, 1)
    while test_load(&m.here) < m.wanted and tries < 50000:
        tries += 1
        sleep_us(100)
    if test_load(&m.here) >= m.wanted:
        test_add(&m.met, 1)
    return 0


def meet(int n, int n_jobs, bint gil=True):
    """Items that wait for each other: how many have met all the others."""
    cdef Meeting m
    m.here = m.met = 0
    m.wanted = n
    if gil:
        parallel_for(meet_body, &m, n, 1, n_jobs)
    else:
        with nogil:
            parallel_for(meet_body, &m, n, 1, n_jobs)
    return m.met


# ---- failures ------------------------------------------------------------------------

cdef struct Failing:
    void* function      # Python callable (item) -> None, called with the GIL
    int64_t started


cdef int calling_body(void* context, Py_ssize_t begin, Py_ssize_t end) except -1 nogil:
    cdef Failing* f = <Failing*>context
    test_add(&f.started, 1)
    with gil:
        (<object>f.function)(begin, end)
    return 0


def call_python(function, Py_ssize_t n, Py_ssize_t grain=1, int n_jobs=-1,
                bint gil=True):
    """Call function(begin, end) for each chunk; returns the number of chunks."""
    cdef Failing f
    f.function = <void*>function
    f.started = 0
    if gil:
        parallel_for(calling_body, &f, n, grain, n_jobs)
    else:
        with nogil:
            parallel_for(calling_body, &f, n, grain, n_jobs)
    return f.started


cdef int slow_body(void* context, Py_ssize_t begin, Py_ssize_t end) except -1 nogil:
    sleep_us(2000)
    return calling_body(context, begin, end)


def call_at_once(function, int n):
    """function(begin, end) on n threads: items so long that all helpers are woken.

    Without that, items that wait for each other could wait for ever.
    """
    cdef Failing f
    f.function = <void*>function
    f.started = 0
    parallel_for(slow_body, &f, n, 1, n)
    return f.started


cdef int silent_body(void* context, Py_ssize_t begin, Py_ssize_t end) noexcept nogil:
    return -1


ctypedef int (*checked)(void*, Py_ssize_t, Py_ssize_t) except -1 nogil


def fail_silently(Py_ssize_t n):
    parallel_for(<checked>silent_body, NULL, n, 0, -1)


cdef int hiding_body(void* context, Py_ssize_t begin, Py_ssize_t end) except -1 nogil:
    """Sets an exception, and does not say so."""
    if begin <= 7 < end:
        with gil:
            PyErr_SetString(ValueError, "hidden")
    return 0


def fail_hidden(Py_ssize_t n, int n_jobs):
    parallel_for(hiding_body, NULL, n, 1, n_jobs)


cdef int asking_body(void* context, Py_ssize_t begin, Py_ssize_t end) except -1 nogil:
    cdef int64_t* n_cancelled = <int64_t*>context
    cdef int _
    if begin == 0:
        sleep_us(20000)
        with gil:
            raise ValueError("the first item")
    for _ in range(5000):
        if cancel_requested():
            test_add(n_cancelled, 1)
            break
        sleep_us(1000)
    return 0


def ask_for_cancel(int n_jobs):
    """(exception, how many bodies saw the cancellation)."""
    cdef int64_t n_cancelled = 0
    try:
        parallel_for(asking_body, &n_cancelled, n_jobs, 1, n_jobs)
    except ValueError as exc:
        return exc, n_cancelled


# ---- nesting -------------------------------------------------------------------

cdef struct Nested:
    int64_t total
    Py_ssize_t inner
    int depth
    int n_jobs
    long burn


cdef int nested_body(void* context, Py_ssize_t begin, Py_ssize_t end) except -1 nogil:
    cdef Nested* outer = <Nested*>context
    cdef Nested inner
    cdef Py_ssize_t _
    cdef long long sink = 0
    for _ in range(begin, end):
        if outer.depth == 0:
            test_add(&outer.total, 1)
            test_burn(&sink, outer.burn)
            continue
        inner.total = 0
        inner.inner = outer.inner
        inner.depth = outer.depth - 1
        inner.n_jobs = outer.n_jobs
        inner.burn = outer.burn
        parallel_for(nested_body, &inner, inner.inner, 0, inner.n_jobs)
        test_add(&outer.total, inner.total)
    return 0


def nest(Py_ssize_t n, Py_ssize_t inner, int depth, int n_jobs=-1, long burn=0):
    """Leaves that were done: n * inner ** depth."""
    cdef Nested context
    context.total = 0
    context.inner = inner
    context.depth = depth
    context.n_jobs = n_jobs
    context.burn = burn
    parallel_for(nested_body, &context, n, 0, n_jobs)
    return context.total


cdef int slot_body(void* context, Py_ssize_t begin, Py_ssize_t end) except -1 nogil:
    cdef int before = worker_slot()
    cdef int64_t inner = 0
    parallel_for(meet_nobody, &inner, 4, 1, -1)
    if worker_slot() != before:
        test_add(<int64_t*>context, 1)
    return 0


cdef int meet_nobody(void* context, Py_ssize_t begin, Py_ssize_t end) except -1 nogil:
    return 0


def slots_changed_by_nesting(Py_ssize_t n, int n_jobs):
    cdef int64_t changed = 0
    parallel_for(slot_body, &changed, n, 1, n_jobs)
    return changed


# ---- long loops ----------------------------------------------------------------


cdef int sleeping_body(void* context, Py_ssize_t begin, Py_ssize_t end) except -1 nogil:
    cdef Py_ssize_t _
    for _ in range(begin, end):
        sleep_us((<long*>context)[0])
    return 0


def sleep_items(Py_ssize_t n, long us, int n_jobs=-1, bint gil=True):
    if gil:
        parallel_for(sleeping_body, &us, n, 1, n_jobs)
    else:
        with nogil:
            parallel_for(sleeping_body, &us, n, 1, n_jobs)


cdef int nested_sleep(void* context, Py_ssize_t begin, Py_ssize_t end) except -1 nogil:
    parallel_for(sleeping_body, context, 1000, 1, 1)
    return 0


def sleep_nested(Py_ssize_t n, long us, int n_jobs):
    parallel_for(nested_sleep, &us, n, 1, n_jobs)
