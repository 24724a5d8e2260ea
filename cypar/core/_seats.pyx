"""Seats: where helper threads wait for work that needs no GIL.

A seat is one word in a table that is never freed. All hand-overs are
compare-and-swap steps on this word, so work is given and taken back without a lock,
with or without the GIL, and nobody ever waits for a thread that has not begun.

::

    FREE -- a thread is started --> BUSY            runs Python, or is about to
    BUSY -- serve ---------------> IDLE             spins; may be claimed
    IDLE -- spun long enough ----> PARKED           sleeps; may be claimed
    IDLE, PARKED -- a claimer ---> CLAIMED          for a few instructions
    CLAIMED -- native job -------> ASSIGNED         its thread may join, or be too late
    ASSIGNED -- its thread ------> RUNNING          inside the job
    ASSIGNED -- the claimer -----> IDLE, PARKED     taken back; the thread never knew
    RUNNING -- its thread -------> IDLE             out of the job
    RUNNING -- a closer sleeps --> WAITED -- its thread, waking the closer --> IDLE
    CLAIMED -- Python job -------> CALLED           its thread goes for the GIL: BUSY
    CLAIMED -- retired ----------> LEAVING          its thread ends: FREE

Guarantees:

- A job is touched by a seat's thread only while the seat is RUNNING or WAITED. Who
  takes a ticket back and finds another phase or epoch knows that the thread is out
  of the job for good, and may free it. No memory of the job is needed for that, so
  it can live on the claimer's stack.
- A seat that is CLAIMED is left within a few instructions; only the claimer writes it.
- The epoch grows with every assigned job, so that a late look at the word cannot take
  a new job for an old one.

Of the threads that sleep, those come first that went to sleep on another processor
than the claimer's: Linux wakes a thread where it slept, if it sees no idle processor
there and does not look for long, and one that waits behind its claimer may do so until
processors are balanced, for 3 ms (measured with two processors that share a cache).

Thread safety: everything here is atomic; any thread, GIL or not.
"""

from libc.stdint cimport int64_t, uint32_t

from cypar.core._port cimport (
    PORT_NOWHERE, port_add32, port_cas32, port_get_here, port_load32, port_monotonic_ns,
    port_park, port_processor, port_set_here, port_spin_on, port_spin_step,
    port_store32, port_swap32, port_unpark,
)

cdef enum:
    FREE = 0
    BUSY = 1
    IDLE = 2
    PARKED = 3
    CLAIMED = 4
    ASSIGNED = 5
    RUNNING = 6
    WAITED = 7
    CALLED_PHASE = 8
    LEAVING = 9
    PHASE = 15          # mask of the phase; the epoch is above
    EPOCH = 16          # one step of the epoch

cdef int64_t EAGER_NS = 10_000   # part of a spin without giving the processor away

cdef Seat _seats[MAX_SEATS]
cdef uint32_t _n_used = 0     # no seat at or above this index was ever taken
cdef uint32_t _forks = 0      # how often this process was forked off


cdef inline uint32_t at(uint32_t word, uint32_t phase) noexcept nogil:
    return (word & ~<uint32_t>PHASE) | phase


# ---- the seat's own thread ---------------------------------------------------


cdef Seat* take_free_seat() noexcept nogil:
    """A free seat, now BUSY, or NULL if all are taken."""
    cdef uint32_t i, word, used
    for i in range(<uint32_t>MAX_SEATS):
        word = port_load32(&_seats[i].word)
        if word & PHASE == FREE and port_cas32(&_seats[i].word, word, at(word, BUSY)):
            used = port_load32(&_n_used)
            while used <= i and not port_cas32(&_n_used, used, i + 1):
                used = port_load32(&_n_used)
            _seats[i].number = i
            return &_seats[i]
    return NULL


cdef void sit(Seat* seat) noexcept nogil:
    """The calling thread is the seat's from now on."""
    port_set_here(seat)


cdef void give_up_seat(Seat* seat) noexcept nogil:
    """The seat's thread ends. Only while the seat is BUSY."""
    port_store32(&seat.word, at(port_load32(&seat.word), FREE))


cdef void open_seat(Seat* seat) noexcept nogil:
    """Let others claim a BUSY seat."""
    port_store32(&seat.word, at(port_load32(&seat.word), IDLE))


cdef What serve(Seat* seat, int64_t idle_ns, int64_t spin_ns) noexcept nogil:
    """Run native jobs until something else is to be done; the seat is then BUSY.

    The seat has been opened by `open_seat`. A thread that has just run a job spins
    for ``spin_ns`` before it sleeps, and returns after ``idle_ns`` of sleep.
    """
    cdef uint32_t word, phase, forked = port_load32(&_forks)
    cdef int64_t began = port_monotonic_ns()
    while True:
        word = port_load32(&seat.word)
        phase = word & PHASE
        if phase == IDLE:
            if not spin(&seat.word, word, port_monotonic_ns() - began, spin_ns):
                port_store32(&seat.processor, port_processor())
                port_cas32(&seat.word, word, at(word, PARKED))
        elif phase == PARKED:
            if (port_park(&seat.word, word, idle_ns) == 1
                    and port_cas32(&seat.word, word, at(word, BUSY))):
                return IDLE_TOO_LONG
        elif phase == ASSIGNED:
            if port_cas32(&seat.word, word, at(word, RUNNING)):
                seat.run(seat.job)
                if port_load32(&_forks) != forked:
                    return RETIRED  # this is a child, the seat may be another's
                word = port_swap32(&seat.word, at(word, IDLE))
                if word & PHASE == WAITED:
                    port_unpark(&seat.word, 1 << 30)
                began = port_monotonic_ns()
        elif phase == CALLED_PHASE:
            port_store32(&seat.word, at(word, BUSY))
            return CALLED
        elif phase == LEAVING:
            port_store32(&seat.word, at(word, BUSY))
            return RETIRED
        else:  # CLAIMED
            port_spin_step()


cdef bint spin(
    const uint32_t* word, uint32_t seen, int64_t spun_ns, int64_t spin_ns
) noexcept nogil:
    """One step of a spin of ``spin_ns``; False when it is over.

    The first microseconds belong to regions that follow each other closely: whoever
    gives the processor away then does not get it back before they are over. After
    that others may have it, not least the one that is waited for.
    """
    if spun_ns >= spin_ns:
        return False
    port_spin_on(word, seen)
    if spun_ns >= EAGER_NS:
        port_spin_step()
    return True


# ---- Python jobs and retirement ----------------------------------------------


cdef Seat* claim_waiting(bint* asleep) noexcept nogil:
    """Claim a helper that waits, one that spins if possible. NULL if there is none.

    The claimer must `deliver` within a few instructions.
    """
    cdef Seat* seat = claim_in(IDLE, PORT_NOWHERE)
    asleep[0] = seat == NULL
    if seat == NULL:
        seat = claim_in(PARKED, port_processor())
    if seat == NULL:
        seat = claim_in(PARKED, PORT_NOWHERE)
    return seat


cdef Seat* claim_in(uint32_t phase, uint32_t not_on) noexcept nogil:
    cdef uint32_t i, word
    for i in range(port_load32(&_n_used)):
        word = port_load32(&_seats[i].word)
        if (word & PHASE == phase and is_elsewhere(&_seats[i], not_on)
                and port_cas32(&_seats[i].word, word, at(word, CLAIMED))):
            return &_seats[i]
    return NULL


cdef inline bint is_elsewhere(Seat* seat, uint32_t processor) noexcept nogil:
    return processor == PORT_NOWHERE or port_load32(&seat.processor) != processor


cdef void deliver(Seat* seat, What what, bint asleep) noexcept nogil:
    """Tell the thread of a claimed seat what to come back for."""
    cdef uint32_t phase = CALLED_PHASE if what == CALLED else LEAVING
    port_store32(&seat.word, at(port_load32(&seat.word), phase))
    if asleep:
        port_unpark(&seat.word, 1)


# ---- native jobs --------------------------------------------------------------


cdef int assign(
    native_job run, void* job, Ticket* tickets, int wanted, bint also_parked
) noexcept nogil:
    """Give a job to up to ``wanted`` waiting helpers; returns to how many.

    Helpers that spin come first, and see the job by themselves. Those that sleep are
    asked if ``also_parked``; each must be woken by `wake` on its ticket.
    """
    cdef int n = assign_from(IDLE, PORT_NOWHERE, run, job, tickets, wanted)
    if also_parked and n < wanted:
        n += assign_from(
            PARKED, port_processor(), run, job, tickets + n, wanted - n
        )
    if also_parked and n < wanted:
        n += assign_from(PARKED, PORT_NOWHERE, run, job, tickets + n, wanted - n)
    return n


cdef int assign_from(
    uint32_t phase, uint32_t not_on, native_job run, void* job, Ticket* tickets,
    int wanted,
) noexcept nogil:
    cdef uint32_t i, word
    cdef int n = 0
    for i in range(port_load32(&_n_used)):
        if n == wanted:
            break
        word = port_load32(&_seats[i].word)
        if word & PHASE != phase or not is_elsewhere(&_seats[i], not_on):
            continue
        if not port_cas32(&_seats[i].word, word, at(word, CLAIMED)):
            continue
        _seats[i].run = run
        _seats[i].job = job
        word = at(word + EPOCH, ASSIGNED)
        tickets[n].seat = i
        tickets[n].epoch = at(word, 0)
        tickets[n].asleep = phase == PARKED
        n += 1
        port_store32(&_seats[i].word, word)
    return n


cdef void wake(Ticket* ticket) noexcept nogil:
    """Wake the thread of an assigned seat if it sleeps."""
    if port_load32(&ticket.asleep) and port_swap32(&ticket.asleep, 0):
        port_unpark(&_seats[ticket.seat].word, 1)


cdef void take_back(Ticket* ticket) noexcept nogil:
    """Take a job back from a thread that has not begun; see `is_inside`."""
    cdef uint32_t* word = &_seats[ticket.seat].word
    cdef uint32_t assigned = ticket.epoch | ASSIGNED
    # A thread that nobody has woken sleeps on: the next claimer has to know.
    cdef uint32_t phase = PARKED if port_swap32(&ticket.asleep, 0) else IDLE
    port_cas32(word, assigned, ticket.epoch | phase)


cdef bint is_live(Ticket* ticket) noexcept nogil:
    """Whether the seat's thread may still join the job, or is inside."""
    cdef uint32_t word = port_load32(&_seats[ticket.seat].word)
    return word == ticket.epoch | ASSIGNED or is_inside(ticket)


cdef bint is_inside(Ticket* ticket) noexcept nogil:
    """Whether the seat's thread is inside the job. False after `take_back` is final."""
    cdef uint32_t word = port_load32(&_seats[ticket.seat].word)
    return word == ticket.epoch | RUNNING or word == ticket.epoch | WAITED


cdef bint spin_for(Ticket* ticket, int64_t spun_ns, int64_t spin_ns) noexcept nogil:
    """One step of a spin until a thread is out of the job; False when it is over."""
    cdef uint32_t* word = &_seats[ticket.seat].word
    return spin(word, ticket.epoch | RUNNING, spun_ns, spin_ns)


cdef int wait_until_left(Ticket* ticket, int64_t timeout_ns) noexcept nogil:
    """Sleep until a thread is out of the job: 0 perhaps, 1 timeout, 2 signal.

    Only after `take_back`; ask `is_inside` again afterwards.
    """
    cdef uint32_t* word = &_seats[ticket.seat].word
    cdef uint32_t waited = ticket.epoch | WAITED
    port_cas32(word, ticket.epoch | RUNNING, waited)
    if port_load32(word) != waited:
        return 0
    return port_park(word, waited, timeout_ns)


# ---- counts and forks ----------------------------------------------------------


cdef bint is_helper() noexcept nogil:
    """Whether this thread has a seat, and so is counted by `count_seats`."""
    return port_get_here() != NULL


cdef int count_seats(bint busy) noexcept nogil:
    """Number of helpers that work (``busy``), or that wait and may be claimed."""
    cdef uint32_t i, phase
    cdef int n = 0
    for i in range(port_load32(&_n_used)):
        phase = port_load32(&_seats[i].word) & PHASE
        if busy:
            n += phase != FREE and phase != IDLE and phase != PARKED
        else:
            n += phase == IDLE or phase == PARKED
    return n


cdef uint32_t forks() noexcept nogil:
    """Changes in a forked child: seats that were taken before are gone."""
    return port_load32(&_forks)


def forget_threads():
    """In a forked child: free all seats, for their threads do not exist here."""
    cdef uint32_t i, word
    for i in range(_n_used):
        word = port_load32(&_seats[i].word)
        port_store32(&_seats[i].word, at(word + EPOCH, FREE))
    port_add32(&_forks, 1)
