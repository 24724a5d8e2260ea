"""Parked helper threads, shared by every call of this process.

A helper is a `threading.Thread` (so it owns a Python thread state: exceptions of
``except -1 nogil`` functions survive) whose wait is native and holds no GIL.

States of a helper (in detail: `cypar.core._seats`):

    running  -- job done -->  parked  -- run(job) -->  running
                              parked  -- native job -->  running without the GIL
                              parked  -- 5 s, fork or exit -->  gone

Guarantees: a parked helper uses no CPU; parked helpers are gone before a fork
(3.12+ warns when a process with threads forks); nothing is started once the
interpreter shuts down, `run` then raises RuntimeError.

Thread safety: a helper's seat is atomic; all else changes under the GIL. A thread
parks only after it has released the GIL, on a word that the one who wakes it sets
first.
"""

import atexit
import os
import sys
import threading

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t

from cypar.core._port cimport port_load32, port_park, port_store32, port_unpark
from cypar.core._seats cimport (
    CALLED, MAX_SEATS, RETIRED, Seat, What, claim_waiting, count_seats, deliver, forks,
    give_up_seat, open_seat, serve, sit, take_free_seat,
)

from cypar.core._seats import forget_threads
from cypar.core.cpu import cpu_count

cdef int64_t IDLE_NS = 5_000_000_000   # a helper that parked this long leaves
cdef double JOIN_S = 1.0               # bound on waiting for a retired helper
# Waking a thread costs 10 us, and 50 us when its processor has gone idle. Alone on one
# CPU a spin only keeps away the one that is waited for.
SPIN_NS = 50_000 if cpu_count() > 1 else 0
cdef int64_t SLICE_NS = 50_000_000     # longest wait between looks for signals


cdef class Parker:
    """A word that one thread waits on and any thread may set."""

    def __cinit__(self):
        self.word = 0
        self.task_index = -1
        self.started_ns = 0

    cdef int park(self, int64_t timeout_ns) except -1:
        """Wait until unparked; 1 when unparked, 0 on timeout. Takes the unpark."""
        cdef int status = 0
        cdef int64_t left = timeout_ns, slice_ns
        while port_load32(&self.word) == 0:
            slice_ns = SLICE_NS if left < 0 or left > SLICE_NS else left
            with nogil:  # GIL OUT: waits for another thread
                # A helper never handles signals, but the caller of a nested call
                # may be the main thread, so every wait ends within a slice there.
                status = port_park(&self.word, 0, slice_ns if left >= 0 else -1)
            if status == 2:
                PyErr_CheckSignals()
            elif status == 1:
                left -= slice_ns
                if left <= 0:
                    break
        if port_load32(&self.word) == 0:
            return 0
        port_store32(&self.word, 0)
        return 1

    cdef void unpark(self) noexcept:
        if port_load32(&self.word) == 0:
            port_store32(&self.word, 1)
            port_unpark(&self.word, 1)


cdef class Helper(Parker):
    """One helper thread; it waits on its seat while it has no job."""

    cdef object job          # called as job(self) by the helper's thread
    cdef object thread
    cdef Seat* seat          # NULL: all seats were taken, so it ends after its job
    cdef bint opened         # others may claim the seat

    cdef int loop(self) except -1:
        cdef object job
        cdef What what
        cdef uint32_t forked = forks()
        if self.seat != NULL:
            sit(self.seat)
        while True:
            job, self.job = self.job, None
            if job is not None:
                try:
                    job(self)
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                job = None  # a parked helper keeps nothing alive
            if forks() != forked:
                return 0  # the job has forked: in the child, the seat is not ours
            if _stopped or self.seat == NULL:
                break
            if self.job is not None:
                continue
            self.open()
            with nogil:  # GIL OUT: waits for work, and runs it if it is native
                what = serve(self.seat, IDLE_NS, SPIN_NS)
            self.opened = False
            if what != CALLED:
                break
        if forks() == forked:
            self.leave_seat()
        return 0

    cdef void open(self) noexcept:
        if self.seat != NULL and not self.opened:
            self.opened = True
            open_seat(self.seat)

    cdef int leave_seat(self) except -1:
        cdef Seat* seat = self.seat
        self.seat = NULL
        if seat != NULL:
            _by_seat[seat.number] = None
            give_up_seat(seat)
        return 0


cdef list _by_seat = [None] * MAX_SEATS   # helper of each seat
cdef bint _stopped = False                # the interpreter is shutting down
cdef Py_ssize_t _started = 0
_all = set()                # threads that were started and have not been seen to end


def _body(Helper helper):
    try:
        helper.loop()
    finally:
        _all.discard(helper.thread)


def run(job):
    """Have a helper thread call ``job(parker)``; start one if none is parked.

    Raises
    ------
    RuntimeError
        When the interpreter shuts down: run the work in the caller instead.
    """
    cdef bint asleep = False
    cdef Seat* seat
    cdef Helper helper
    if is_shutting_down():
        raise RuntimeError("cannot start threads while the interpreter shuts down")
    seat = claim_waiting(&asleep)
    if seat == NULL:
        _start(job)
        return
    helper = _by_seat[seat.number]
    helper.job = job
    deliver(seat, CALLED, asleep)


def start(int n):
    """Start up to ``n`` helpers that wait for work; returns how many could start."""
    cdef int i
    for i in range(n):
        if is_shutting_down():
            return i
        try:
            _start(None)
        except RuntimeError:  # the system has no more threads for this process
            return i
    return n


cdef int _start(object job) except -1:
    global _started
    cdef Helper helper = Helper()
    helper.job = job
    helper.seat = take_free_seat()
    if helper.seat != NULL:
        _by_seat[helper.seat.number] = helper
    _started += 1
    helper.thread = threading.Thread(
        target=_body, args=(helper,), name=f"cypar-worker-{_started}", daemon=True
    )
    _all.add(helper.thread)
    try:
        helper.thread.start()
    except BaseException:
        _all.discard(helper.thread)
        helper.leave_seat()
        raise
    if job is None:
        helper.open()  # work can be given to it before its thread is there
    return 0


def is_shutting_down():
    """Whether new threads and processes must not be started any more."""
    return _stopped or sys.is_finalizing() or not threading.main_thread().is_alive()


def parked_count():
    """Number of helpers that wait for a job."""
    return count_seats(busy=False)


def live_count():
    """Number of helper threads that have not ended."""
    return len(_all)


def retire():
    """End all parked helpers and wait for them, at most a second in all."""
    cdef bint asleep = False
    cdef Seat* seat
    cdef Helper helper
    cdef list retired = []
    while True:
        seat = claim_waiting(&asleep)
        if seat == NULL:
            break
        helper = _by_seat[seat.number]
        deliver(seat, RETIRED, asleep)
        retired.append(helper.thread)
    for thread in retired:
        thread.join(JOIN_S / len(retired))


def _stop():
    global _stopped
    _stopped = True
    retire()


def _forget():
    """In a forked child: the helpers of the parent do not exist here."""
    forget_threads()
    _by_seat[:] = [None] * MAX_SEATS
    _all.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=retire, after_in_child=_forget)
atexit.register(_stop)
