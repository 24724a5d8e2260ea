"""Parked helper threads, shared by every call of this process.

A helper is a `threading.Thread` (so it owns a Python thread state: exceptions of
``except -1 nogil`` functions survive) whose wait is native and holds no GIL.

States of a helper:

    running  -- job done -->  parked  -- run(job) -->  running
                              parked  -- 5 s, fork or exit -->  gone

Guarantees: a parked helper uses no CPU; parked helpers are gone before a fork
(3.12+ warns when a process with threads forks); nothing is started once the
interpreter shuts down, `run` then raises RuntimeError.

Thread safety: all state changes happen under the GIL; a thread parks only after
it has released the GIL, on a word that the one who wakes it sets first.
"""

import atexit
import os
import sys
import threading

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t

from cypar.core.cpu import cpu_count

from cypar.core._port cimport (
    port_load32, port_monotonic_ns, port_park, port_spin_step, port_store32,
    port_unpark,
)

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

    cdef int spin(self) except -1:
        """Spin for an unpark, briefly: saves the wake-up between small calls."""
        cdef int64_t until
        if SPIN_NS == 0 or port_load32(&self.word) != 0:
            return 0
        with nogil:  # GIL OUT: waits for another thread
            until = port_monotonic_ns() + SPIN_NS
            while port_load32(&self.word) == 0 and port_monotonic_ns() < until:
                port_spin_step()
        return 0

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
    """One helper thread; it parks on itself while it has no job."""

    cdef object job          # called as job(self) by the helper's thread
    cdef object thread
    cdef bint retired

    cdef int loop(self) except -1:
        cdef object job
        while True:
            if self.job is None:
                if self.retired:
                    return 0
                self.spin()
                if not self.park(IDLE_NS) and self.job is None:
                    self.retired = True
                    if self in _parked:
                        _parked.remove(self)
                    return 0
                continue
            job, self.job = self.job, None
            try:
                job(self)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            job = None  # a parked helper keeps nothing alive
            if _stopped:
                return 0
            _parked.append(self)


cdef list _parked = []     # helpers without a job, the most recent last
cdef bint _stopped = False  # the interpreter is shutting down
cdef Py_ssize_t _started = 0
_all = set()               # threads that were started and have not been seen to end


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
    global _started
    cdef Helper helper
    if is_shutting_down():
        raise RuntimeError("cannot start threads while the interpreter shuts down")
    while _parked:
        helper = _parked.pop()
        if not helper.retired:
            helper.job = job
            helper.unpark()
            return
    helper = Helper()
    helper.job = job
    _started += 1
    helper.thread = threading.Thread(
        target=_body, args=(helper,), name=f"cypar-worker-{_started}", daemon=True
    )
    _all.add(helper.thread)
    try:
        helper.thread.start()
    except BaseException:
        _all.discard(helper.thread)
        raise


def is_shutting_down():
    """Whether new threads and processes must not be started any more."""
    return _stopped or sys.is_finalizing() or not threading.main_thread().is_alive()


def parked_count():
    """Number of helpers that wait for a job."""
    return len(_parked)


def live_count():
    """Number of helper threads that have not ended."""
    return len(_all)


def retire():
    """End all parked helpers and wait for them, at most a second in all."""
    cdef Helper helper
    retired = []
    while _parked:
        helper = _parked.pop()
        helper.retired = True
        helper.unpark()
        retired.append(helper.thread)
    for thread in retired:
        thread.join(JOIN_S / len(retired))


def _stop():
    global _stopped
    _stopped = True
    retire()


def _forget():
    """In a forked child: the helpers of the parent do not exist here."""
    _parked.clear()
    _all.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=retire, after_in_child=_forget)
atexit.register(_stop)
