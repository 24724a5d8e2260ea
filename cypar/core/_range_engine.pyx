"""The range engine: one loop over 0..n, cut into chunks, on several threads.

::

    caller:  assign the region to waiting helpers -> run chunks -> close the region
    helper:  join -> run chunks -> back to its seat

A chunk is claimed by one compare-and-swap on the index of the first unclaimed item.
Its size is guided: what is left over four times the workers, but no less than some
0.25 to 2 us and no more than some 10 ms of work, as the claimer's last chunk measured.

Guarantees:

- The caller takes part and never waits for a helper that has not begun, so a region
  costs about what its items cost even where no helper ever gets a processor, and
  nested regions cannot deadlock: who waits, waits for running chunks only.
- What earlier regions of the same body cost only decides whether helpers are woken at
  once and how small the first chunks are; each worker corrects it after one chunk.
- Short regions that follow each other closely count as one long region: helpers are
  started and woken for them, and then spin from one to the next.

Thread safety: any thread may submit, with or without the GIL.
"""

from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t

from cypar.core._helper_threads cimport SPIN_NS
from cypar.core._port cimport (
    port_cas64, port_detach, port_exception_place, port_load32, port_load64,
    port_monotonic_ns, port_store32, port_store64,
)
from cypar.core._region cimport (
    Region, Worker, close_region, enter, enter_as_helper, fail, get_helpers,
    is_cancelled, leave, max_workers, open_region, recruit, tend,
)

# An item's time is kept in units of 1/16 ns; 0 stands for unknown.
cdef uint64_t UNITS_PER_NS = 16
cdef uint64_t MAX_PACE = 0xffffffff       # 0.27 s
# Least work in a chunk, which costs some 0.1 us to claim. Short regions ...
cdef int64_t SHORT_NS = 30_000
cdef int64_t GRAIN_NS = 2_000
cdef int64_t ALONE_NS = 10_000            # ... for which no helper was asked; ...
cdef int64_t LEAST_NS = 250               # ... and long ones, in inverse proportion:
# their last items may be far longer than those before, and only few should go together
cdef int64_t FIRST_NS = 50_000            # a first chunk: the pace may be stale
cdef int64_t CHUNK_NS = 10_000_000        # Ctrl-C and failures are seen between chunks
cdef int64_t JOIN_NS = 700                # less work is not worth a second processor
cdef int64_t PAYS_NS = 4_000              # less gains little, even from one that spins
cdef int64_t WAKE_NS = 15_000             # less work is over before a sleeper is there
cdef int64_t START_NS = 100_000           # less work is not worth starting a thread
cdef Py_ssize_t GROWTH = 16               # of a worker's chunks
cdef Py_ssize_t FIRST_ITEMS = 16          # at an unknown pace
cdef Py_ssize_t MAX_FIRST_ITEMS = 1024

cdef enum:
    N_PACES = 64                          # bodies whose pace is remembered

ctypedef int (*plain_body)(
    void* context, Py_ssize_t begin, Py_ssize_t end
) noexcept nogil

cdef struct RangeJob:
    Region region            # first, so that a Region* is a RangeJob*
    plain_body body
    void* context
    Py_ssize_t n
    Py_ssize_t grain         # 0: chosen by time
    int64_t work_ns          # what all items should take, 0 if unknown
    uint32_t pace            # of the worker that was last to finish a chunk
    char pad[64]             # the next field has a cache line of its own
    uint64_t next            # the first item that nobody has claimed
    char pad_after[64]

cdef struct Course:          # how one worker gets on
    uint64_t pace
    int64_t clock            # end of its last chunk
    Py_ssize_t last          # items of its last chunk, 0 before the first
    Py_ssize_t done          # items of all its chunks

cdef uint64_t _paces[N_PACES]   # upper half: which body; lower half: its pace
cdef uint64_t _stream_began = 0     # when the first of some regions in a row began
cdef uint64_t _stream_seen = 0      # when the last of them ended


cdef int run_range(
    range_body body, void* context, Py_ssize_t n, Py_ssize_t grain, int n_jobs,
    const void* key
) noexcept nogil:
    """Call ``body(context, begin, end)`` until 0..n is covered.

    Parameters
    ----------
    grain
        Fewest items of a chunk but the last; 0 lets the engine choose by time.
    n_jobs
        Workers, the caller included; 0 and below as for `max_workers`.
    key
        What the pace is remembered for: the body, or what it calls.

    Returns
    -------
    0, or -1 with a Python exception set.
    """
    cdef RangeJob job
    cdef Worker me
    cdef Course course
    cdef int64_t began, work_ns
    cdef bint is_known, is_long, wants_threads
    cdef uint64_t seed
    if n <= 0:
        return 0
    seed = recall(key)
    work_ns = time_of(n, seed)
    is_known = seed != 0
    is_long = not is_known or work_ns >= WAKE_NS
    job.body = <plain_body>body
    job.context = context
    job.n = n
    job.grain = max(grain, 0)
    job.work_ns = work_ns
    job.pace = <uint32_t>seed
    job.next = 0
    open_region(&job.region, join, workers_for(n, job.grain, n_jobs))
    wants_threads = not is_known or work_ns >= START_NS
    if not wants_threads and work_ns >= PAYS_NS:
        wants_threads = continues_stream(job.region.opened_at)
        is_long = is_long or wants_threads
    if wants_threads:
        get_helpers(&job.region)
    job.region.detached = port_detach()
    if is_long or work_ns >= JOIN_NS:
        recruit(&job.region, is_long)
    enter(&job.region, &me)
    began = port_monotonic_ns()
    course.clock = began
    work(&job, &course, True)
    leave(&me)
    remember(key, seed, course.done, course.clock - began)
    port_store64(&_stream_seen, course.clock)
    return close_region(&job.region)


cdef bint continues_stream(int64_t now) noexcept nogil:
    """Whether regions have followed each other closely for long enough.

    Regions of several threads may be taken for one stream; they want helpers, too.
    """
    if now - <int64_t>port_load64(&_stream_seen) > SPIN_NS:
        port_store64(&_stream_began, now)
        return False
    return now - <int64_t>port_load64(&_stream_began) > START_NS


cdef int workers_for(Py_ssize_t n, Py_ssize_t grain, int n_jobs) noexcept nogil:
    """Workers that can each get a chunk of at least ``grain`` items."""
    cdef Py_ssize_t n_chunks = n if grain <= 1 else (n - 1) // grain + 1
    return <int>min(<Py_ssize_t>max_workers(n_jobs), n_chunks)


cdef void join(void* region) noexcept nogil:
    """What a helper does in the region."""
    cdef RangeJob* job = <RangeJob*>region
    cdef Worker me
    cdef Course course
    enter_as_helper(&job.region, &me)
    course.clock = port_monotonic_ns()
    work(job, &course, False)
    leave(&me)


cdef void work(RangeJob* job, Course* course, bint is_caller) noexcept nogil:
    """Claim and run chunks until there are no more, or the region is cancelled."""
    cdef Py_ssize_t begin = 0, end
    cdef PyObject* const* exception = port_exception_place()
    course.last = course.done = 0
    course.pace = port_load32(&job.pace)
    while not is_cancelled(&job.region):
        end = claim(job, course, &begin)
        if end == 0:
            return
        # an exception may be set by a body whose declaration does not admit to it
        if job.body(job.context, begin, end) == -1 or exception[0] != NULL:
            fail(&job.region, begin, b"the body of a parallel range")
            return
        observe(job, course, end - begin)
        if is_caller:
            tend(
                &job.region, course.clock,
                time_of(job.n - <Py_ssize_t>port_load64(&job.next), course.pace)
                >= WAKE_NS,
            )


cdef Py_ssize_t claim(RangeJob* job, Course* course, Py_ssize_t* begin) noexcept nogil:
    """Claim the next chunk: returns its end, 0 if nothing is left."""
    cdef uint64_t first = port_load64(&job.next)
    cdef Py_ssize_t left, size
    while True:
        left = job.n - <Py_ssize_t>first
        if left <= 0:
            return 0
        size = chunk_size(job, course, left)
        if port_cas64(&job.next, first, first + size):
            begin[0] = <Py_ssize_t>first
            return <Py_ssize_t>first + size
        first = port_load64(&job.next)


cdef Py_ssize_t chunk_size(
    RangeJob* job, Course* course, Py_ssize_t left
) noexcept nogil:
    cdef Py_ssize_t share = left // (4 * job.region.limit), least, most
    if job.region.limit == 1:
        share = left
    if course.pace == 0:
        least, most = 1, FIRST_ITEMS
    else:
        least = items_in(grain_ns(job, course), course.pace)
        if course.last == 0:
            most = min(items_in(FIRST_NS, course.pace), MAX_FIRST_ITEMS)
        else:
            most = min(items_in(CHUNK_NS, course.pace), GROWTH * course.last)
    if job.grain != 0:
        least = job.grain
    return min(max(min(max(share, least), most), max(job.grain, 1)), left)


cdef int64_t grain_ns(RangeJob* job, Course* course) noexcept nogil:
    """Least work that is worth a chunk of its own."""
    cdef int64_t work_ns = max(job.work_ns, time_of(job.n, course.pace))
    if work_ns > SHORT_NS:
        return max(GRAIN_NS * SHORT_NS // work_ns, LEAST_NS)
    return GRAIN_NS if port_load32(&job.region.n_tickets) else ALONE_NS


cdef void observe(RangeJob* job, Course* course, Py_ssize_t n_items) noexcept nogil:
    """Take note of what a chunk took."""
    cdef int64_t now = port_monotonic_ns()
    course.pace = pace_of(n_items, now - course.clock)
    course.clock = now
    course.last = n_items
    course.done += n_items
    port_store32(&job.pace, <uint32_t>course.pace)


# ---- what bodies cost -------------------------------------------------------------


cdef inline int64_t time_of(Py_ssize_t n, uint64_t pace) noexcept nogil:
    """Nanoseconds that ``n`` items take."""
    return <int64_t>(<double>n * <double>pace / <double>UNITS_PER_NS)


cdef inline uint64_t pace_of(Py_ssize_t n, int64_t time_ns) noexcept nogil:
    cdef uint64_t pace = <uint64_t>time_ns * UNITS_PER_NS // <uint64_t>n
    return min(max(pace, <uint64_t>1), MAX_PACE)


cdef inline Py_ssize_t items_in(int64_t time_ns, uint64_t pace) noexcept nogil:
    """Items that fit into a time, at least 1."""
    return max(<Py_ssize_t>(<uint64_t>time_ns * UNITS_PER_NS // pace), 1)


cdef inline uint64_t mixed(const void* key) noexcept nogil:
    return <uint64_t><uintptr_t>key * <uint64_t>0x9e3779b97f4a7c15


cdef uint64_t recall(const void* key) noexcept nogil:
    """The pace of the last region with this key, 0 if unknown."""
    cdef uint64_t name = mixed(key)
    cdef uint64_t entry = port_load64(&_paces[name % N_PACES])
    return entry & MAX_PACE if entry >> 32 == name >> 32 else 0


cdef void remember(
    const void* key, uint64_t old, Py_ssize_t n_items, int64_t time_ns
) noexcept nogil:
    """Keep the pace of a region. One that lost its processor counts little."""
    if n_items == 0:
        return
    cdef uint64_t name = mixed(key), pace = pace_of(n_items, time_ns)
    if old != 0 and pace > 4 * old:
        pace = 4 * old
    if pace != old:
        port_store64(&_paces[name % N_PACES], name >> 32 << 32 | min(pace, MAX_PACE))
