"""Regions: a piece of native work that the caller shares with helper threads.

::

    open_region  ->  recruit, enter, work, tend ...  ->  leave, close_region
                     helpers: enter_as_helper, work, leave

The range engine and task groups put their own work into this frame.

Guarantees:

- The caller lets go of the GIL for the region if it came with it.
- A region lives on its caller's stack. `close_region` returns when no helper can
  touch it any more; it waits for those inside, never for one that has not begun.
- One budget for all: a region asks only as many helpers as there are processors, or
  jobs that it was given, less the workers of other regions and of the thread backend.
- The failure with the lowest position is raised; an interrupt before any other.
- In the main thread, signals are handled within some 50 ms if chunks are short.

Thread safety: each function says who may call it; the caller's ones have one owner.
"""

import os
import threading

from cpython.exc cimport PyErr_CheckSignals, PyErr_Occurred, PyErr_SetObject
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from cypar.core._helper_threads cimport SPIN_NS
from cypar.core._port cimport (
    port_add32, port_attach, port_attached, port_get_here, port_load32,
    port_load64, port_monotonic_ns, port_set_here, port_store32, port_store64,
    port_thread_id,
)
from cypar.core._seats cimport (
    Ticket, assign, count_seats, forks, is_helper, is_inside, is_live, native_job,
    spin_for, take_back, wait_until_left, wake,
)

from cypar.core import _helper_threads
from cypar.core.cpu import cpu_count
from cypar.core.errors import RegionCancelled

cdef int64_t SIGNALS_NS = 20_000_000    # between two looks for signals
cdef int64_t RECRUIT_NS = 50_000        # between two looks for helpers
cdef int64_t SLICE_NS = 50_000_000      # longest sleep of a caller
cdef int64_t RECOUNT_NS = 1_000_000_000  # a change of affinity counts after that

cdef Py_ssize_t INTERRUPT = -1          # ranks before every position

# Written under the GIL, read without it.
cdef uint32_t _n_cpus = cpu_count()
cdef uint64_t _counted_at = port_monotonic_ns()
cdef uint64_t _start_again_at = 0   # threads could not be started; in ns
cdef uint32_t _n_callers = 0        # threads in regions that are no helpers
cdef uint64_t _main_thread = threading.main_thread().ident  # handles signals


cdef int max_workers(int n_jobs) noexcept nogil:
    """Workers that a region with this ``n_jobs`` may have, at least 1.

    Positive numbers are taken as they are, 0 and -1 stand for all processors, -2 for
    all but one, and so on.
    """
    if n_jobs <= 0:
        n_jobs = max(<int>port_load32(&_n_cpus) + 1 + min(n_jobs, -1), 1)
    return min(n_jobs, MAX_WORKERS)


# ---- what a body can ask ------------------------------------------------------


cdef int current_slot() noexcept nogil:
    """This thread's number in the innermost region, 0 outside of all."""
    cdef Worker* here = <Worker*>port_get_here()
    return 0 if here == NULL else here.slot


cdef Worker* worker_in(Region* region) noexcept nogil:
    """What this thread is in ``region``, if anything; in nested ones it still is."""
    cdef Worker* here = <Worker*>port_get_here()
    while here != NULL and here.region != region:
        here = here.outer
    return here


cdef bint is_cancelled(Region* region) noexcept nogil:
    """Whether this region or one around it has failed or was interrupted."""
    while region != NULL:
        if port_load32(&region.cancelled):
            return True
        region = region.outer
    return False


cdef bint here_cancelled() noexcept nogil:
    """`is_cancelled` of the innermost region of this thread."""
    cdef Worker* here = <Worker*>port_get_here()
    return here != NULL and is_cancelled(here.region)


# ---- the caller ----------------------------------------------------------------


cdef void open_region(Region* region, native_job join, int limit) noexcept nogil:
    """Begin a region for up to ``limit`` workers."""
    cdef Worker* here = <Worker*>port_get_here()
    cdef int64_t now = port_monotonic_ns()
    region.outer = NULL if here == NULL else here.region
    region.join = join
    region.limit = limit
    region.on_main = port_thread_id() == _main_thread
    region.forked = forks()
    region.signals_at = now + SIGNALS_NS
    region.recruit_at = now + RECRUIT_NS
    region.detached = NULL
    region.cancelled = 0
    region.joined = 1
    region.n_tickets = 0
    region.next_wake = 0
    region.error = NULL
    region.failed_at = 0
    region.counted = here == NULL and not is_helper()
    if region.counted:
        port_add32(&_n_callers, 1)
    if now - <int64_t>port_load64(&_counted_at) > RECOUNT_NS and port_attached():
        with gil:
            count_cpus()


cdef void get_helpers(Region* region) noexcept nogil:
    """Start helper threads if there are fewer than the region could use."""
    if (missing_helpers(region) > 0
            and port_monotonic_ns() >= <int64_t>port_load64(&_start_again_at)):
        with gil:
            start_helpers(missing_helpers(region))


cdef int budget(Region* region) noexcept nogil:
    """How many more threads may work now."""
    cdef int n_cpus = port_load32(&_n_cpus)
    cdef int n_free = max(n_cpus, region.limit) - <int>port_load32(&_n_callers)
    return n_free - count_seats(True)


cdef int missing_helpers(Region* region) noexcept nogil:
    return min(region.limit - 1, budget(region)) - count_seats(False)


cdef void count_cpus() noexcept:
    port_store64(&_counted_at, port_monotonic_ns())
    try:
        port_store32(&_n_cpus, cpu_count())
    except ValueError:  # a wrong environment variable: `Parallel` complains of it
        pass


cdef void start_helpers(int n) noexcept:
    """Start helper threads; what fails is tried again a second later."""
    cdef int n_started = 0
    try:
        n_started = _helper_threads.start(n)
    except Exception:  # such as MemoryError: the caller can do all the work itself
        pass
    if n_started < n:
        port_store64(&_start_again_at, port_monotonic_ns() + RECOUNT_NS)


cdef int recruit(Region* region, bint also_parked) noexcept nogil:
    """Ask waiting helpers to join, as many as may; returns to how many. Caller only."""
    cdef uint32_t first = region.n_tickets, i
    cdef int wanted = min(region.limit - 1 - <int>first, budget(region)), n
    if wanted <= 0:
        return 0
    n = assign(region.join, region, &region.tickets[first], wanted, also_parked)
    if n == 0:
        return 0
    port_store32(&region.n_tickets, first + n)
    if first == 0 and n > 2:
        wake_two(region)  # each helper that joins wakes two more
    else:
        for i in range(first, first + n):
            wake(&region.tickets[i])
    return n


cdef int recruit_again(Region* region) noexcept nogil:
    """Ask one helper more to join a region that helpers leave and join again.

    These do not wake each other: nobody else looks at the tickets.
    """
    cdef uint32_t i, n = 0
    cdef Ticket* ticket
    for i in range(region.n_tickets):
        if is_live(&region.tickets[i]):
            region.tickets[n] = region.tickets[i]
            n += 1
    region.n_tickets = n
    if <int>n + 1 >= region.limit or budget(region) <= 0:
        return 0
    ticket = &region.tickets[n]
    if assign(region.join, region, ticket, 1, True) == 0:
        return 0
    region.n_tickets = n + 1
    wake(ticket)
    return 1


cdef void wake_two(Region* region) noexcept nogil:
    cdef uint32_t i, _turn
    for _turn in range(2):
        if port_load32(&region.next_wake) >= port_load32(&region.n_tickets):
            return
        i = port_add32(&region.next_wake, 1)
        if i < port_load32(&region.n_tickets):
            wake(&region.tickets[i])


cdef void tend(Region* region, int64_t now, bint wants_more) noexcept nogil:
    """What the caller does between two chunks: signals, and more helpers."""
    if region.on_main and now >= region.signals_at:
        look_for_signals(region)
    if wants_more and now >= region.recruit_at:
        region.recruit_at = now + RECRUIT_NS
        recruit(region, True)


cdef void look_for_signals(Region* region) noexcept nogil:
    with gil:
        run_signal_handlers(region)
    region.signals_at = port_monotonic_ns() + SIGNALS_NS


cdef int close_region(Region* region) noexcept nogil:
    """End a region: 0, or -1 with a Python exception set."""
    cdef uint32_t i
    for i in range(region.n_tickets):
        take_back(&region.tickets[i])  # so that others can have these helpers
    for i in range(region.n_tickets):
        if is_inside(&region.tickets[i]):
            wait_for(region, &region.tickets[i])
    if region.counted:
        port_add32(&_n_callers, <uint32_t>-1)
    if region.forked != forks() and region.n_tickets > 0:
        with gil:
            set_forked(region)
    port_attach(region.detached)
    if region.error == NULL:
        if not is_cancelled(region.outer):
            return 0
        fail(region, 0, b"")  # its caller must not take it for complete
    with gil:
        raise_error(region)
    return -1


cdef void wait_for(Region* region, Ticket* ticket) noexcept nogil:
    """Wait until the thread of ``ticket`` is out of the region."""
    cdef int64_t began = port_monotonic_ns(), now = began
    while is_inside(ticket):
        if not spin_for(ticket, now - began, SPIN_NS):
            wait_until_left(ticket, SLICE_NS)
        now = port_monotonic_ns()
        if region.on_main and now >= region.signals_at:
            look_for_signals(region)


# ---- helpers, and the caller as a worker ------------------------------------------


cdef void enter(Region* region, Worker* me) noexcept nogil:
    """The caller begins to work in its region."""
    me.region = region
    me.slot = 0
    me.outer = <Worker*>port_get_here()
    port_set_here(me)


cdef void enter_as_helper(Region* region, Worker* me) noexcept nogil:
    """A helper joins a region whose helpers join once each."""
    enter(region, me)
    me.slot = port_add32(&region.joined, 1)
    wake_two(region)


cdef void leave(Worker* me) noexcept nogil:
    port_set_here(me.outer)


# ---- failure ----------------------------------------------------------------------


cdef void fail(Region* region, Py_ssize_t at, const char* what) noexcept nogil:
    """Cancel the region with this thread's exception, which ``at`` gives its rank.

    Without an exception, ``what`` is named as what failed; empty: the region is only
    incomplete because one around it was cancelled. Any worker.
    """
    port_store32(&region.cancelled, 1)
    with gil:
        record(region, at, what)


cdef void record(Region* region, Py_ssize_t at, const char* what) noexcept:
    try:
        raise_current(what)
    except BaseException as exc:
        keep(region, exc, at)


cdef void run_signal_handlers(Region* region) noexcept:
    try:
        PyErr_CheckSignals()
    except BaseException as exc:
        port_store32(&region.cancelled, 1)
        keep(region, exc, INTERRUPT)


cdef void keep(Region* region, object exc, Py_ssize_t at) noexcept:
    """Keep an exception if it ranks before the one that the region has."""
    cdef object old
    if not isinstance(exc, Exception):
        at = INTERRUPT
    if region.error != NULL:
        old = <object>region.error
        if isinstance(exc, RegionCancelled) or not (
            isinstance(old, RegionCancelled) or at < region.failed_at
        ):
            return
        Py_DECREF(old)
    Py_INCREF(exc)  # given back by raise_error, or where it is replaced
    region.error = <PyObject*>exc
    region.failed_at = at


cdef int raise_current(const char* what) except -1:
    if PyErr_Occurred() != NULL:
        return -1
    if what[0] == 0:
        raise RegionCancelled("a parallel region around this one was cancelled")
    raise RuntimeError(
        f"{what.decode()} reported a failure without setting an exception"
    )


cdef void set_forked(Region* region) noexcept:
    keep(
        region,
        RuntimeError(
            "the process was forked inside a parallel region: in the child, the other "
            "threads of the region do not exist, so its work is incomplete"
        ),
        INTERRUPT,
    )


cdef void raise_error(Region* region) noexcept:
    """Set the region's exception in the caller's thread."""
    cdef object exc = <object>region.error
    Py_DECREF(exc)
    region.error = NULL
    PyErr_SetObject(type(exc), exc)


def _forked():
    """In a forked child: its one thread is the main thread."""
    global _n_callers, _main_thread
    cdef Worker* here = <Worker*>port_get_here()
    _main_thread = port_thread_id()
    _n_callers = 0
    while here != NULL:  # it forked inside of regions; the outermost one counts
        _n_callers = here.region.counted
        here = here.outer


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
