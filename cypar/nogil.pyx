"""Parallel loops, reductions and task groups for Cython code that holds no GIL.

Use it from Cython::

    from cypar.nogil cimport parallel_for

    cdef int rows(void* context, Py_ssize_t begin, Py_ssize_t end) except -1 nogil:
        ...

    parallel_for(rows, &context, n_rows, 0, -1)

The threads are those of ``Parallel(prefer="threads")``.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from cypar.core._range_engine cimport run_range
from cypar.core._region cimport current_slot, here_cancelled, max_workers
from cypar.core._task_group cimport (
    Group, free_group, new_group, spawn_task, wait_for_tasks,
)


cdef int parallel_for(
    range_body body, void* context, Py_ssize_t n, Py_ssize_t grain, int n_jobs
) except -1 nogil:
    """Call ``body(context, begin, end)`` on pieces of 0..n, on several threads.

    Parameters
    ----------
    body
        Runs without the GIL, on the calling thread too. Each item is in one call.
    context
        Handed to every call.
    n
        Number of items; nothing is called if it is not positive.
    grain
        Fewest items worth a call of their own; 0 lets cypar choose by time.
    n_jobs
        Threads that may work, the caller included; -1 and 0 stand for all
        processors, -2 for all but one, and so on.

    Returns
    -------
    0, or -1 with the exception set that the body left behind. Of several failing
    pieces the first in the range counts; pieces that have not begun then never do.
    """
    return run_range(body, context, n, grain, n_jobs, <const void*>body)


cdef int worker_slot() noexcept nogil:
    """Number of this thread among the workers of the innermost loop, from 0 on.

    Less than `worker_count` of the loop's ``n_jobs``, and no two threads that are in
    the loop have the same one: an index for scratch memory. The caller has 0.
    """
    return current_slot()


cdef int worker_count(int n_jobs) noexcept nogil:
    """Most threads that a loop with this ``n_jobs`` uses.

    Pass it to the loop as ``n_jobs`` if memory was allocated for that many: the number
    of usable processors can change.
    """
    return max_workers(n_jobs)


cdef bint cancel_requested() noexcept nogil:
    """Whether a loop or group around this call has failed: finish early then.

    Pieces that have not begun are dropped anyway; a long piece may ask now and then.
    """
    return here_cancelled()


# ---- reductions ------------------------------------------------------------------

cdef struct Reduction:
    reduce_body body
    void* context
    char* parts         # one per worker slot
    size_t stride       # bytes from one to the next


cdef int parallel_reduce(
    reduce_body body, combine_body combine, void* context, void* total, size_t size,
    Py_ssize_t n, Py_ssize_t grain, int n_jobs
) except -1 nogil:
    """`parallel_for` whose pieces add up to one value.

    Each thread works on a part of its own, a copy of ``total`` as it is at the call:
    the neutral element of the operation, such as 0 for a sum. In the end the parts
    are combined into ``total`` in the calling thread.

    Parameters
    ----------
    body
        ``body(context, part, begin, end)`` adds a piece of 0..n to ``part``.
    combine
        ``combine(context, total, part)``. `add_double` and `add_int64` are there.
    total
        The neutral element; in the end, the result. Unchanged after a failure.
    size
        Bytes of the value that ``total`` points to.
    context, n, grain, n_jobs
        As for `parallel_for`. The pieces, and so the rounding of a sum of floating
        point numbers, differ from call to call.
    """
    cdef Reduction job
    cdef int slot, n_slots = max_workers(n_jobs), result
    # a cache line, or two, between parts: no thread slows another down
    job.stride = (size + 127) // 128 * 128
    job.parts = <char*>malloc(job.stride * n_slots + 1)
    if job.parts == NULL:
        with gil:
            raise MemoryError(
                f"no memory for {n_slots} partial results of {size} bytes"
            )
    job.body = body
    job.context = context
    for slot in range(n_slots):
        memcpy(job.parts + slot * job.stride, total, size)
    # as many slots as were counted above, even if the processors change meanwhile
    result = run_range(reduce_piece, &job, n, grain, n_slots, <const void*>body)
    if result == 0:
        for slot in range(n_slots):
            combine(context, total, job.parts + slot * job.stride)
    free(job.parts)
    return result


cdef int reduce_piece(
    void* context, Py_ssize_t begin, Py_ssize_t end
) except -1 nogil:
    cdef Reduction* job = <Reduction*>context
    return job.body(
        job.context, job.parts + current_slot() * job.stride, begin, end
    )


cdef void add_double(void* context, void* total, const void* part) noexcept nogil:
    (<double*>total)[0] += (<const double*>part)[0]


cdef void add_int64(void* context, void* total, const void* part) noexcept nogil:
    (<int64_t*>total)[0] += (<const int64_t*>part)[0]


# ---- task groups -------------------------------------------------------------------


cdef class TaskGroup:
    """Tasks that are spawned one by one and run on several threads.

    Parameters
    ----------
    n_jobs : int, default=-1
        Threads that may work, the owner included; as for `parallel_for`.

    Notes
    -----
    ``spawn(body, context)`` adds a task, from the owner's thread or from a task of
    the group. It never blocks: with 1,024 tasks waiting, the spawning thread runs the
    new one at once. ``wait()`` runs and waits for all of them in the owner's thread
    and fails if one has failed; the group can then be used again. Both need no GIL.

    Thread safety: one owner; see above for what its tasks may do.
    """

    def __cinit__(self, int n_jobs=-1):
        self.group = new_group(n_jobs)
        if self.group == NULL:
            raise MemoryError("no memory for the ring of a task group")

    def __dealloc__(self):
        # A group that nobody waited for: tasks that run may need the GIL.
        with nogil:  # GIL OUT: waits for other threads
            free_group(<Group*>self.group)

    cdef int spawn(self, task_body body, void* context) except -1 nogil:
        return spawn_task(<Group*>self.group, body, context)

    cdef int wait(self) except -1 nogil:
        return wait_for_tasks(<Group*>self.group)
