"""What parallel regions share: workers, failures, their beginning and end."""

from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint32_t

from cypar.core._seats cimport Ticket, native_job

cdef enum:
    MAX_WORKERS = 256   # threads of one region, the caller included

cdef struct Region:
    Region* outer           # the region that the caller works in, or NULL
    native_job join         # what a helper runs, with the region as argument
    int limit               # workers that may take part, the caller included
    bint on_main            # the caller is the main thread: it looks for signals
    bint counted            # the caller is counted in _n_callers
    uint32_t forked         # forks() when the region began
    void* detached          # the caller's thread state, if it let go of the GIL
    int64_t signals_at      # when to look for signals next
    int64_t recruit_at      # when to look for more helpers next
    uint32_t cancelled      # no chunk begins any more
    uint32_t joined         # worker slots given out; the caller has 0
    uint32_t n_tickets      # helpers that were asked so far
    uint32_t next_wake      # ticket of the next one to wake
    PyObject* error         # under the GIL: an owned exception
    Py_ssize_t failed_at    # where, lowest wins
    Ticket tickets[MAX_WORKERS - 1]

# One thread inside a region; lives on its stack.
cdef struct Worker:
    Region* region
    Worker* outer           # what the thread was in when it called this region
    int slot

cdef int max_workers(int n_jobs) noexcept nogil
cdef int current_slot() noexcept nogil
cdef Worker* worker_in(Region* region) noexcept nogil
cdef bint is_cancelled(Region* region) noexcept nogil
cdef bint here_cancelled() noexcept nogil

cdef void open_region(Region* region, native_job join, int limit) noexcept nogil
cdef void get_helpers(Region* region) noexcept nogil
cdef int recruit(Region* region, bint also_parked) noexcept nogil
cdef int recruit_again(Region* region) noexcept nogil
cdef void tend(Region* region, int64_t now, bint wants_more) noexcept nogil
cdef void fail(Region* region, Py_ssize_t at, const char* what) noexcept nogil
cdef int close_region(Region* region) noexcept nogil

cdef void enter(Region* region, Worker* me) noexcept nogil
cdef void enter_as_helper(Region* region, Worker* me) noexcept nogil
cdef void leave(Worker* me) noexcept nogil
