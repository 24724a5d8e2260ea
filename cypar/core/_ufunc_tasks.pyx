"""Calls of NumPy's ufuncs as tasks of the thread backend, without the GIL.

A ufunc gives the GIL away for each call with more than 500 numbers and has to win it
back, which costs more than a call of a few microseconds. So a worker that has claimed a
task ``(ufunc, arrays, {})`` which is nothing but one turn of an inner loop claims
more of them, a tenth of a millisecond of work, and turns the loops itself, in one
stretch without the GIL. Such tasks are calls

- of ufuncs of NumPy itself, which do nothing but calculate, with one result;
- of whole arrays: ndarrays of the same shape, C-contiguous, aligned, of one dtype that
  the ufunc takes as it is; perhaps with one for the result, apart from the others;
- of up to `MAX_ITEMS` numbers: longer calls lose nothing by the GIL.

NumPy does all others itself. The results are the same to the bit: it is the same loop
on the same memory. (Tried once for each, in case a version of NumPy calls another.)

What NumPy does after the loop is to look at the floating-point flags, and to ignore,
warn or raise as `numpy.errstate` says. Where one is set, NumPy therefore does the whole
call again, which can be done since no input was written to.

Thread safety: GIL, but for the stretch. What it needs is owned by the chunk.
"""

import sys

from cpython.exc cimport PyErr_Clear, PyErr_Occurred
from cpython.object cimport PyTypeObject
from cpython.ref cimport (
    Py_DECREF, Py_INCREF, PyObject, Py_XDECREF, Py_XINCREF,
)
from libc.stdint cimport int64_t, uint32_t, uintptr_t

from cypar.core cimport _numpy_structs
from cypar.core._helper_threads cimport Parker
from cypar.core._native_call cimport loop_function
from cypar.core._numpy_structs cimport (
    ALIGNED, C_CONTIGUOUS, WRITEABLE, NDArray, n_items,
)
from cypar.core._port cimport port_exception_place, port_load32, port_monotonic_ns
from cypar.core._task_fifo cimport Waiting
from cypar.core._task_queue cimport Call, Outcomes, TaskSource, ufunc_hooks
from cypar.core._worker_loop cimport is_ufunc_call, release_task, run_one

from cypar.core.ufunc_loops import loop_for, number_dtypes, numpy_ufuncs, sample

cdef extern from "<fenv.h>" nogil:
    int feclearexcept(int flags)
    int fetestexcept(int flags)
    int FE_DIVBYZERO, FE_INVALID, FE_OVERFLOW, FE_UNDERFLOW

cdef enum:
    MAX_INPUTS = 3
    MIN_ITEMS = 501     # NumPy keeps the GIL for fewer
    MAX_ITEMS = 32768   # 20 us of the cheapest loops; the GIL costs below 1
    MAX_CHUNK = 64      # tasks
    MAX_BACK_OFF = 1024     # calls
    MAX_MISFITS = 64    # of half of all tasks: not worth looking at

cdef int64_t CHUNK_NS = 100_000   # giving the GIL away and back costs well below 1 %
cdef int64_t SLOW_NS = 2_000_000  # after that, others are asked for what still waits
cdef double MAX_GROWTH = 4        # of a loop's time: one call may just have been late

cdef object _empty = None       # numpy.empty
cdef object _ufunc = None       # numpy.ufunc
cdef bint _seen = False
cdef Py_ssize_t _n_run = 0
cdef dict _loops = {}           # ufunc of NumPy -> {id(dtype): ArrayLoop or None}
cdef dict _dtypes = {}          # id(dtype) -> dtype; long equals long long, so by id


# An inner loop, as its calls need it.
cdef struct InnerLoop:
    loop_function function
    void* data
    int n_inputs
    Py_ssize_t[MAX_INPUTS + 1] steps    # bytes, of the inputs and of the result


cdef class ArrayLoop:
    """The inner loop of a ufunc for arrays of one dtype."""

    cdef InnerLoop inner
    cdef object dtype
    cdef object result_dtype
    cdef bint wants_out_named   # else it warns
    cdef double item_ns         # that it takes; 0: not known yet
    cdef Py_ssize_t left_out    # calls that NumPy shall do
    cdef Py_ssize_t back_off    # so many after the last flag

    def __init__(self, ufunc, dtype, found):
        cdef int i
        address, data, result_dtype = found
        self.inner.function = <loop_function><void*><uintptr_t>address
        self.inner.data = <void*><uintptr_t>data
        self.inner.n_inputs = ufunc.nin
        for i in range(self.inner.n_inputs):
            self.inner.steps[i] = dtype.itemsize
        self.inner.steps[self.inner.n_inputs] = result_dtype.itemsize
        self.dtype = dtype
        self.result_dtype = result_dtype
        self.wants_out_named = ufunc.__name__ in ("maximum", "minimum")  # NumPy 2.4

    cdef bint is_that_of(self, object ufunc) except -1:
        """Whether the ufunc itself gives the same results."""
        cdef int i
        cdef Turn turn
        numpy = sys.modules["numpy"]
        x = sample(self.dtype)
        ours, theirs = numpy.zeros((2, len(x)), self.result_dtype)
        turn.size = len(x)
        for i in range(self.inner.n_inputs):
            turn.pointers[i] = (<NDArray*>x).data
        turn.pointers[self.inner.n_inputs] = (<NDArray*>ours).data
        run_loop(&self.inner, &turn)
        if PyErr_Occurred() != NULL:
            PyErr_Clear()
            return False
        with numpy.errstate(all="ignore"):
            ufunc(*(x,) * self.inner.n_inputs, out=theirs)
        return ours.tobytes() == theirs.tobytes()

    cdef void learn(self, const Turn* turn) noexcept:
        """Note how long a call took that set no flag."""
        cdef double item_ns = <double>turn.spent_ns / turn.size
        self.back_off //= 2
        if self.item_ns == 0:
            self.item_ns = item_ns
        else:
            self.item_ns += (min(item_ns, MAX_GROWTH * self.item_ns) - self.item_ns) / 8

    cdef void flagged(self) noexcept:
        """Note a call that has to be done twice: leave the next ones to NumPy."""
        self.back_off = min(2 * self.back_off + 1, <Py_ssize_t>MAX_BACK_OFF)
        self.left_out = self.back_off

    cdef bint is_left_out(self) noexcept:
        if self.left_out == 0:
            return False
        self.left_out -= 1
        return True


# One turn of a loop: what a call needs.
cdef struct Turn:
    char* pointers[MAX_INPUTS + 1]  # to the inputs, then to the result
    Py_ssize_t size                 # items
    int64_t spent_ns

# A task that a worker has claimed, or may claim. All references are owned.
cdef struct Item:
    PyObject* payload           # NULL once let go
    PyObject* function
    PyObject* out               # the array with the result
    PyObject* loop              # an ArrayLoop
    const InnerLoop* inner      # within it
    Py_ssize_t index
    Turn turn
    bint flagged                # NumPy has to do it again

cdef struct Chunk:
    int n
    double estimate_ns
    Item[MAX_CHUNK] items


# ---- from a task to a turn ------------------------------------------------------


cdef bint fits(
    object value, object dtype, const NDArray* like, bint is_written
) noexcept:
    """Whether NumPy would run a loop on this array's memory as it is."""
    cdef int i
    cdef NDArray* array = <NDArray*>value
    cdef int flags = C_CONTIGUOUS | ALIGNED | (WRITEABLE if is_written else 0)
    if (
        type(value) is not _numpy_structs.ndarray
        or array.dtype != <PyObject*>dtype
        or array.n_dims != like.n_dims
        or array.flags & flags != flags
        or (is_written and array.flags < 0)
    ):
        return False
    for i in range(like.n_dims):
        if array.shape[i] != like.shape[i]:
            return False
    return True


cdef ArrayLoop find_loop(object ufunc, object dtype):
    """The loop for arrays of a dtype; None if NumPy itself has to do the call."""
    cdef dict loops = <dict>_loops.get(ufunc)
    cdef ArrayLoop loop
    if loops is None:
        return None
    key = <uintptr_t><PyObject*>dtype
    if key in loops:
        return loops[key]
    if key not in _dtypes:
        return None
    try:
        found = loop_for(ufunc, dtype)
        loop = None if found is None else ArrayLoop(ufunc, dtype, found)
        if loop is not None and not loop.is_that_of(ufunc):
            loop = None
    except Exception:  # a version of NumPy that works in another way
        return None
    return loops.setdefault(key, loop)  # other threads may have found it meanwhile


cdef object find_out(ArrayLoop loop, tuple args, dict keywords):
    """The array for the result as the caller gives it, or None; False: do not ask."""
    cdef Py_ssize_t n = len(args) - loop.inner.n_inputs
    if len(keywords) != 0:
        if n == 0 and len(keywords) == 1 and "out" in keywords:
            return keywords["out"]
        return False
    if n == 0:
        return None
    return False if n != 1 or loop.wants_out_named else args[loop.inner.n_inputs]


cdef bint prepare(
    object function, tuple args, dict keywords, Item* item
) except -1:
    """Find what a call needs; False if NumPy has to do it. Nothing is kept then.

    Arrays are read last: whatever code runs before may change them.
    """
    cdef ArrayLoop loop
    if len(args) == 0 or type(args[0]) is not _numpy_structs.ndarray:
        return False
    if not MIN_ITEMS <= n_items(<NDArray*>args[0]) <= MAX_ITEMS:
        return False
    loop = find_loop(function, <object>(<NDArray*>args[0]).dtype)
    if loop is None or len(args) < loop.inner.n_inputs or loop.is_left_out():
        return False
    out = find_out(loop, args, keywords)
    if out is None:
        if not inputs_fit(loop, args):
            return False
        try:
            out = _empty(args[0].shape, loop.result_dtype)
        except MemoryError:  # which NumPy will raise for this task
            return False
    if not read_arrays(loop, args, out, &item.turn):
        return False
    item.flagged = False
    item.inner = &loop.inner
    Py_INCREF(out)  # given back by `let_go`, as the loop
    item.out = <PyObject*>out
    Py_INCREF(loop)
    item.loop = <PyObject*>loop
    return True


cdef bint inputs_fit(ArrayLoop loop, tuple args) noexcept:
    cdef int i
    for i in range(loop.inner.n_inputs):
        if not fits(args[i], loop.dtype, <NDArray*>args[0], False):
            return False
    return True


cdef bint read_arrays(ArrayLoop loop, tuple args, object out, Turn* turn) noexcept:
    """Note where the numbers are; False if they are not as a loop needs them."""
    cdef int i
    cdef NDArray* first = <NDArray*>args[0]
    turn.size = n_items(first)
    if not (
        MIN_ITEMS <= turn.size <= MAX_ITEMS
        and inputs_fit(loop, args)
        and fits(out, loop.result_dtype, first, True)
    ):
        return False
    turn.pointers[loop.inner.n_inputs] = (<NDArray*>out).data
    for i in range(loop.inner.n_inputs):
        turn.pointers[i] = (<NDArray*>args[i]).data
        if overlap(loop, i, turn):
            return False
    return True


cdef bint overlap(ArrayLoop loop, int i, const Turn* turn) noexcept:
    """Whether input ``i`` and the result share memory."""
    cdef char* one = turn.pointers[i]
    cdef char* two = turn.pointers[loop.inner.n_inputs]
    return (one < two + turn.size * loop.inner.steps[loop.inner.n_inputs]
            and two < one + turn.size * loop.inner.steps[i])


# ---- chunks ---------------------------------------------------------------------


cdef int run_ufuncs(
    Call call, Parker me, Py_ssize_t index, PyObject* payload, PyObject* function
) except -1:
    """Run a claimed call of a ufunc and calls after it. Takes the references."""
    cdef Chunk chunk
    cdef TaskSource source = call.source
    # what is left is shared out evenly in the end
    cdef Py_ssize_t most = 1 + source.pending // (2 * call.n_jobs)
    chunk.n = 0
    chunk.estimate_ns = 0
    try:
        if add(&chunk, index, payload, function):
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
    source.ufunc_misfits += 1
    if source.ufunc_misfits > max(MAX_MISFITS, call.outcomes.finished // 2):
        source.chunks_ufuncs = False
    if source.pending:
        call.wake_one()
    return run_one(call, call.outcomes, me, index, payload, function, False)


cdef bint add(
    Chunk* chunk, Py_ssize_t index, PyObject* payload, PyObject* function
) except -1:
    """Take a claimed task into the chunk, if it can be; else it stays the caller's."""
    cdef Item* item = &chunk.items[chunk.n]
    cdef ArrayLoop loop
    cdef tuple task
    if function != NULL:
        if not prepare(<object>function, <tuple>payload, {}, item):
            return False
    else:
        task = <tuple>payload
        if not prepare(task[0], <tuple>task[1], <dict>task[2], item):
            return False
    item.index = index
    item.payload = payload
    item.function = function
    chunk.n += 1
    loop = <ArrayLoop>item.loop
    # what is not known yet ends the chunk
    chunk.estimate_ns += loop.item_ns * item.turn.size if loop.item_ns else CHUNK_NS
    return True


cdef bint claim_next(TaskSource source, Chunk* chunk) except -1:
    """Claim the next task, too, if it can be run in the chunk.

    One that cannot is left to all: it may be any Python code, and take long.
    """
    cdef Waiting* waiting = &source.ring[source.head]
    cdef PyObject* payload = waiting.payload
    cdef PyObject* function = waiting.function
    cdef Py_ssize_t index = source.drawn - source.pending
    cdef bint is_claimed = False
    if source.pending == 0 or not is_ufunc_call(payload, function):
        return False
    Py_INCREF(<object>payload)
    Py_XINCREF(function)
    try:
        if add(chunk, index, payload, function):
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
    cdef int begin = 0, end, i, n_flagged = 0
    cdef Item* item
    while begin < chunk.n and call.stop_state == 0:
        with nogil:  # GIL OUT: inner loops need none
            end = run_loops(chunk, begin, <uint32_t*>&call.stop_state)
        PyErr_Clear()  # of the last loop; NumPy will raise it again
        for i in range(begin, end):
            item = &chunk.items[i]
            if item.flagged:
                n_flagged += 1
            else:
                settle(call.outcomes, item)
        begin = end
        if call.source.pending:
            call.wake_one()
    # last, since NumPy may call the user's code
    for i in range(chunk.n if n_flagged else 0):
        if chunk.items[i].flagged and call.stop_state == 0:
            repeat(call, me, &chunk.items[i])
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
        item.flagged = run_loop(item.inner, &item.turn)
        now = port_monotonic_ns()
        item.turn.spent_ns = now - last
        last = now
        if exception[0] != NULL:
            item.flagged = True
            return i + 1
        if now - began > SLOW_NS or port_load32(stop):
            return i + 1
    return chunk.n


cdef bint run_loop(const InnerLoop* inner, Turn* turn) noexcept nogil:
    """One turn; whether it has set a floating-point flag that NumPy would look at."""
    cdef int flags = FE_DIVBYZERO | FE_INVALID | FE_OVERFLOW | FE_UNDERFLOW
    if fetestexcept(flags):  # of something before; to clear them takes ten times longer
        feclearexcept(flags)
    inner.function(turn.pointers, &turn.size, inner.steps, inner.data)
    if not fetestexcept(flags):
        return False
    feclearexcept(flags)
    return True


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
    """Look at NumPy, if it is imported; return whether ufuncs can be run here."""
    global _dtypes, _empty, _loops, _seen, _ufunc
    numpy = sys.modules.get("numpy")
    if _seen or numpy is None:
        return _seen and _numpy_structs.ndarray is not None
    if getattr(getattr(numpy, "__spec__", None), "_initializing", False):
        return False  # another thread is importing it
    try:
        _numpy_structs.learn_numpy(numpy)
        dtypes = {id(dtype): dtype for dtype in number_dtypes()}
        loops = {ufunc: {} for ufunc in numpy_ufuncs() if ufunc.nin <= MAX_INPUTS}
        empty, kind = numpy.empty, numpy.ufunc
    except Exception:  # it is no NumPy, or one that works in another way
        return False
    if not _seen:  # by another thread meanwhile, which may use its loops already
        _dtypes, _loops, _empty, _ufunc = dtypes, loops, empty, kind
        ufunc_hooks.kind = <PyTypeObject*>_ufunc
        ufunc_hooks.run = run_ufuncs
        _seen = True
    return _numpy_structs.ndarray is not None


def can_run(function, *args, **kwargs):
    """Whether such a call would be run here, not by NumPy itself; for tests."""
    cdef Item item
    if not learn() or not prepare(function, args, kwargs, &item):
        return False
    Py_DECREF(<object>item.out)
    Py_DECREF(<object>item.loop)
    return True


def forget_flags():
    """Try again what NumPy was to do since a flag was set; for tests."""
    for loops in _loops.values():
        for loop in loops.values():
            if loop is not None:
                (<ArrayLoop>loop).left_out = (<ArrayLoop>loop).back_off = 0


def n_run():
    """Return how many calls were run here so far; for tests."""
    return _n_run
