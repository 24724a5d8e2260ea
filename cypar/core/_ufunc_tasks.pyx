"""Calls of NumPy's ufuncs as tasks of the thread backend, without the GIL.

A ufunc gives the GIL away for each call and has to win it back, which costs more than a
call of a few microseconds. So a worker that has claimed a task ``(ufunc, arrays, {})``
which is nothing but one turn of an inner loop (see _array_loops) claims more of them, a
tenth of a millisecond of work, and turns the loops itself, in one stretch without the
GIL. All other calls, and those that set a floating-point flag, are NumPy's own.

Thread safety: GIL, but for the stretch. What it needs is owned by the chunk.
"""

from cpython.exc cimport PyErr_Clear
from cpython.object cimport PyTypeObject
from cpython.ref cimport (
    Py_DECREF, Py_INCREF, PyObject, Py_XDECREF, Py_XINCREF,
)
from libc.stdint cimport int64_t, uint32_t

from cypar.core._array_loops cimport (
    MISFIT, READY, ArrayLoop, InnerLoop, Turn, learn_ufuncs, prepare, read_arrays,
    run_loop,
)
from cypar.core._helper_threads cimport Parker
from cypar.core._port cimport port_exception_place, port_load32, port_monotonic_ns
from cypar.core._task_fifo cimport Waiting
from cypar.core._task_queue cimport Call, Outcomes, TaskSource, ufunc_hooks
from cypar.core._worker_loop cimport is_ufunc_call, release_task, run_one

cdef enum:
    MAX_CHUNK = 64      # tasks
    MAX_MISFITS = 64    # looked at in vain; from half of all tasks on it does not pay

cdef int64_t CHUNK_NS = 100_000   # giving the GIL away and back costs well below 1 %
cdef int64_t SLOW_NS = 2_000_000  # after that, others are asked for what still waits

cdef Py_ssize_t _n_run = 0

# A task that a worker has claimed, or may claim. All references are owned.
cdef struct Item:
    PyObject* payload           # NULL once let go
    PyObject* function
    PyObject* out               # the array with the result
    PyObject* loop              # an ArrayLoop
    const InnerLoop* inner      # within it
    Py_ssize_t index
    Turn turn
    bint is_for_numpy           # it has set a flag, or its arrays have changed

cdef struct Chunk:
    int n
    double estimate_ns
    Item[MAX_CHUNK] items


cdef int run_ufuncs(
    Call call, Parker me, Py_ssize_t index, PyObject* payload, PyObject* function
) except -1:
    """Run a claimed call of a ufunc and calls after it. Takes the references."""
    cdef Chunk chunk
    cdef TaskSource source = call.source
    # what is left is shared out evenly in the end
    cdef Py_ssize_t most = 1 + source.pending // (2 * call.n_jobs)
    cdef int is_ready
    chunk.n = 0
    chunk.estimate_ns = 0
    try:
        is_ready = add(&chunk, index, payload, function, True)
        if is_ready == READY:
            payload = NULL
            while (
                chunk.n < min(most, <Py_ssize_t>MAX_CHUNK)
                and chunk.estimate_ns < CHUNK_NS
                and claim_next(source, &chunk)
            ):
                pass
            if source.pending:
                call.wake_one()
            run_chunk(call, me, &chunk)
            return 0
    except BaseException:
        if payload != NULL:
            release_task(payload, function)
        raise
    finally:
        while chunk.n:
            chunk.n -= 1
            let_go(&chunk.items[chunk.n])
    source.ufunc_misfits += is_ready == MISFIT
    if source.ufunc_misfits > max(MAX_MISFITS, call.outcomes.finished // 2):
        source.chunks_ufuncs = False
    if source.pending:
        call.wake_one()
    return run_one(call, call.outcomes, me, index, payload, function, False)


cdef int add(
    Chunk* chunk, Py_ssize_t index, PyObject* payload, PyObject* function,
    bint is_claimed,
) except -1:
    """Take a task into the chunk, if it is READY; else it stays the caller's."""
    cdef Item* item = &chunk.items[chunk.n]
    cdef ArrayLoop loop
    cdef object ufunc
    cdef int is_ready
    cdef tuple args
    cdef dict keywords
    if function != NULL:
        ufunc, args, keywords = <object>function, <tuple>payload, {}
    else:
        ufunc, args, keywords = <tuple>payload
    is_ready = prepare(
        ufunc, args, keywords, is_claimed, &item.loop, &item.out, &item.turn
    )
    if is_ready != READY:
        return is_ready
    loop = <ArrayLoop>item.loop
    item.inner = &loop.inner
    item.is_for_numpy = False
    item.index = index
    item.payload = payload
    item.function = function
    chunk.n += 1
    if loop.item_ns == 0 or loop.back_off > 0:
        chunk.estimate_ns += CHUNK_NS  # it ends the chunk: slow, or with flags again
    else:
        chunk.estimate_ns += loop.item_ns * item.turn.size
    return READY


cdef bint claim_next(TaskSource source, Chunk* chunk) except -1:
    """Claim the next task, too, if it can be run in the chunk.

    One that cannot is left to all: it may be any Python code, and take long.
    """
    cdef Waiting* waiting = source.peek()
    cdef PyObject* payload
    cdef PyObject* function
    cdef Py_ssize_t index = source.drawn - source.pending
    cdef bint is_claimed = False
    if waiting == NULL or not is_ufunc_call(waiting.payload, waiting.function):
        return False
    payload = waiting.payload
    function = waiting.function
    Py_INCREF(<object>payload)
    Py_XINCREF(function)
    try:
        if add(chunk, index, payload, function, False) == READY:
            # its preparation may have let another worker run
            if source.pending != 0 and source.drawn - source.pending == index:
                is_claimed = source.may_start()
            if is_claimed:
                source.shift()
                Py_DECREF(<object>payload)  # that of the FIFO; the chunk has its own
                Py_XDECREF(function)
            else:
                chunk.n -= 1
                let_go(&chunk.items[chunk.n])
            payload = NULL
    finally:
        if payload != NULL:
            Py_DECREF(<object>payload)
            Py_XDECREF(function)
    return is_claimed


cdef int run_chunk(Call call, Parker me, Chunk* chunk) except -1:
    cdef int begin = 0, end, i, n_for_numpy = 0
    cdef Item* item
    while begin < chunk.n and call.stop_state == 0:
        for i in range(begin, chunk.n):
            read_again(&chunk.items[i])
        with nogil:  # GIL OUT: inner loops need none
            end = run_loops(chunk, begin, <uint32_t*>&call.stop_state)
        PyErr_Clear()  # of the last loop; NumPy will raise it again
        for i in range(begin, end):
            item = &chunk.items[i]
            if item.is_for_numpy:
                n_for_numpy += 1
            else:
                settle(call.outcomes, item)
        begin = end
        if call.source.pending:
            call.wake_one()
    # last, since NumPy may call the user's code
    for i in range(chunk.n if n_for_numpy else 0):
        if chunk.items[i].is_for_numpy and call.stop_state == 0:
            repeat(call, me, &chunk.items[i])
    return 0


cdef int read_again(Item* item) except -1:
    """Have NumPy do what no longer fits: much code may have run since it was added."""
    cdef tuple args = <tuple>item.payload
    if item.function == NULL:
        args = <tuple>args[1]
    if not read_arrays(<ArrayLoop>item.loop, args, <object>item.out, &item.turn):
        item.is_for_numpy = True
    return 0


cdef int run_loops(Chunk* chunk, int begin, const uint32_t* stop) noexcept nogil:
    """Turn loops until one sets an exception; returns the end.

    It also returns when they take so long that others should know.
    """
    cdef PyObject* const* exception = port_exception_place()
    cdef Item* item
    cdef int64_t began = port_monotonic_ns(), last = began, now
    cdef int i
    for i in range(begin, chunk.n):
        item = &chunk.items[i]
        if item.is_for_numpy:
            continue
        item.is_for_numpy = run_loop(item.inner, &item.turn)
        now = port_monotonic_ns()
        item.turn.spent_ns = now - last
        last = now
        if exception[0] != NULL:
            item.is_for_numpy = True
            return i + 1
        if now - began > SLOW_NS or port_load32(stop):
            return i + 1
    return chunk.n


cdef int settle(Outcomes outcomes, Item* item) except -1:
    """Store the result of a call that is done."""
    global _n_run
    out = <object>item.out
    _n_run += 1
    (<ArrayLoop>item.loop).learn(&item.turn)
    let_go(item)  # first, so that a caller who is woken finds nothing kept
    outcomes.put(item.index, out, -1)
    return 0


cdef int repeat(Call call, Parker me, Item* item) except -1:
    """Run a task like any other: NumPy warns or raises as it is told to."""
    cdef PyObject* payload = item.payload
    cdef PyObject* function = item.function
    (<ArrayLoop>item.loop).flagged()
    Py_INCREF(<object>payload)  # given back by run_one
    Py_XINCREF(function)
    let_go(item)
    return run_one(call, call.outcomes, me, item.index, payload, function, False)


cdef int let_go(Item* item) except -1:
    cdef PyObject* payload = item.payload
    if payload != NULL:
        item.payload = NULL
        Py_DECREF(<object>item.out)
        Py_DECREF(<object>item.loop)
        release_task(payload, item.function)
    return 0


# ---- switching it on -------------------------------------------------------------


def learn():
    """Look at NumPy, if it is imported; return whether its ufuncs can be run here."""
    kind = learn_ufuncs()
    if kind is None:
        return False
    ufunc_hooks.kind = <PyTypeObject*>kind
    ufunc_hooks.run = run_ufuncs
    return True


def can_run(function, *args, **kwargs):
    """Whether such a call would be run here, not by NumPy itself; for tests."""
    cdef Chunk chunk
    chunk.n = 0
    task = (function, args, kwargs)
    if not learn() or add(&chunk, 0, <PyObject*>task, NULL, False) != READY:
        return False
    Py_INCREF(task)  # given back by `let_go`
    let_go(&chunk.items[0])
    return True


def n_run():
    """Return how many calls were run here so far; for tests."""
    return _n_run
