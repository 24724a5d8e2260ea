"""Where helper threads wait, and how others get them to work without the GIL."""

from libc.stdint cimport int64_t, uint32_t


ctypedef void (*native_job)(void* job) noexcept nogil

cdef enum:
    MAX_SEATS = 512     # helpers beyond that end after their job

cdef enum What:         # why a helper comes back from `serve`
    CALLED              # a Python job waits for it
    IDLE_TOO_LONG
    RETIRED

cdef struct Seat:
    uint32_t word       # epoch and phase; its thread and a closer park on it
    uint32_t number     # index in the table
    native_job run
    void* job
    uint32_t processor  # where its thread went to sleep
    char pad[100]       # a cache line of its own, and the next one, which is prefetched

# What the one who assigned a native job remembers, to take the job back.
cdef struct Ticket:
    uint32_t seat
    uint32_t epoch
    uint32_t asleep     # its thread sleeps and nobody has woken it up yet

cdef Seat* take_free_seat() noexcept nogil
cdef void sit(Seat* seat) noexcept nogil
cdef void give_up_seat(Seat* seat) noexcept nogil
cdef void open_seat(Seat* seat) noexcept nogil
cdef What serve(Seat* seat, int64_t idle_ns, int64_t spin_ns) noexcept nogil

cdef Seat* claim_waiting(bint* asleep) noexcept nogil
cdef void deliver(Seat* seat, What what, bint asleep) noexcept nogil

cdef int assign(
    native_job run, void* job, Ticket* tickets, int wanted, bint also_parked
) noexcept nogil
cdef void wake(Ticket* ticket) noexcept nogil
cdef void take_back(Ticket* ticket) noexcept nogil
cdef bint is_live(Ticket* ticket) noexcept nogil
cdef bint is_inside(Ticket* ticket) noexcept nogil
cdef bint spin_for(Ticket* ticket, int64_t spun_ns, int64_t spin_ns) noexcept nogil
cdef int wait_until_left(Ticket* ticket, int64_t timeout_ns) noexcept nogil

cdef bint is_helper() noexcept nogil
cdef int count_seats(bint busy) noexcept nogil
cdef uint32_t forks() noexcept nogil
