"""The inner loops of NumPy's ufuncs over whole arrays, called without NumPy.

A call can be one turn of a loop, with the very results, if it is one

- of a ufunc of NumPy itself, which does nothing but calculate, with one result;
- of whole arrays: ndarrays of the same shape, C-contiguous, aligned, of one dtype that
  the ufunc takes as it is; perhaps with one for the result, apart from the others;
- of more than 500 numbers, for which NumPy gives the GIL away, and up to `MAX_ITEMS`:
  longer calls lose nothing by that.

The results are the same to the bit: it is the loop that NumPy would choose, on the same
memory. (Each is tried once, in case a version of NumPy calls another.)

What NumPy does after the loop is to look at the floating-point flags, and to ignore,
warn or raise as `numpy.errstate` says. Where one is set, NumPy has to do the whole call
again, which can be done since no input was written to.

Thread safety: GIL, but for `run_loop`.
"""

import sys

from cpython.exc cimport PyErr_Clear, PyErr_Occurred
from cpython.ref cimport Py_INCREF, PyObject
from libc.stdint cimport uintptr_t

from cypar.core cimport _numpy_structs
from cypar.core._numpy_structs cimport (
    ALIGNED, C_CONTIGUOUS, WRITEABLE, DType, NDArray, is_plain, n_items,
)

from cypar.core.ufunc_loops import loop_for, number_dtypes, numpy_ufuncs, sample

cdef extern from "<fenv.h>" nogil:
    int feclearexcept(int flags)
    int fetestexcept(int flags)
    int FE_DIVBYZERO, FE_INVALID, FE_OVERFLOW, FE_UNDERFLOW

cdef enum:
    MIN_ITEMS = 501     # NumPy keeps the GIL for fewer
    MAX_ITEMS = 32768   # 20 us of the cheapest loops; the GIL costs below 1
    MAX_BACK_OFF = 1024     # calls

cdef double MAX_GROWTH = 4      # of a loop's time: one call may just have been late

cdef object _empty = None       # numpy.empty
cdef object _ufunc = None       # numpy.ufunc
cdef bint _seen = False
cdef dict _loops = {}           # ufunc of NumPy -> {dtype.num: ArrayLoop or None}
cdef dict _dtypes = {}          # dtype.num -> dtype


cdef class ArrayLoop:
    """The inner loop of a ufunc for arrays of one dtype."""

    def __init__(self, ufunc, dtype, found):
        cdef int i
        address, data, result_dtype = found
        self.inner.function = <loop_function><void*><uintptr_t>address
        self.inner.data = <void*><uintptr_t>data
        self.inner.n_inputs = ufunc.nin
        for i in range(self.inner.n_inputs):
            self.inner.steps[i] = dtype.itemsize
        self.inner.steps[self.inner.n_inputs] = result_dtype.itemsize
        self.dtype = <DType*>dtype
        self.result_dtype = result_dtype
        self.wants_out_named = ufunc.__name__ in ("maximum", "minimum")  # NumPy 2.4

    cdef bint is_that_of(self, object ufunc) except -1:
        """Whether the ufunc itself gives the same results."""
        cdef int i
        cdef Turn turn
        numpy = sys.modules["numpy"]
        x = sample(<object><PyObject*>self.dtype)
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
        if self.left_out == 0:  # else another one of the same chunk
            self.back_off *= 2
        self.back_off = min(self.back_off + 1, <Py_ssize_t>MAX_BACK_OFF)
        self.left_out = self.back_off


cdef object learn_ufuncs():
    """Look at NumPy, if it is imported; numpy.ufunc, or None if this cannot be used."""
    global _dtypes, _empty, _loops, _seen, _ufunc
    numpy = sys.modules.get("numpy")
    if _seen or numpy is None:
        return _ufunc
    if getattr(getattr(numpy, "__spec__", None), "_initializing", False):
        return None  # another thread is importing it
    try:
        _numpy_structs.learn_numpy(numpy)
        dtypes = {dtype.num: dtype for dtype in number_dtypes()}
        loops = {ufunc: {} for ufunc in numpy_ufuncs() if ufunc.nin <= MAX_INPUTS}
        empty, kind = numpy.empty, numpy.ufunc
    except Exception:  # it is no NumPy, or one that works in another way
        return None
    if not _seen:  # by another thread meanwhile, which may use its loops already
        _dtypes, _loops, _empty = dtypes, loops, empty
        _ufunc = None if _numpy_structs.ndarray is None else kind
        _seen = True
    return _ufunc


cdef bint fits(
    object value, const DType* dtype, const NDArray* like, bint is_written
):
    """Whether NumPy would run a loop on this array's memory as it is."""
    cdef int i
    cdef NDArray* array = <NDArray*>value
    cdef int flags = C_CONTIGUOUS | ALIGNED | (WRITEABLE if is_written else 0)
    if (
        type(value) is not _numpy_structs.ndarray
        or not (array.dtype == dtype
                or (array.dtype.number == dtype.number and is_plain(array.dtype)))
        or array.n_dims != like.n_dims
        or array.flags & flags != flags
        or (is_written and array.flags < 0)
    ):
        return False
    for i in range(like.n_dims):
        if array.shape[i] != like.shape[i]:
            return False
    return True


cdef ArrayLoop find_loop(object ufunc, object number):
    """The loop for arrays of a dtype; None if NumPy itself has to do the call."""
    cdef dict loops = <dict>_loops.get(ufunc)
    cdef ArrayLoop loop
    if loops is None:
        return None
    if number in loops:
        return loops[number]
    dtype = _dtypes.get(number)
    if dtype is None:
        return None
    try:
        found = loop_for(ufunc, dtype)
        loop = None if found is None else ArrayLoop(ufunc, dtype, found)
        if loop is not None and not loop.is_that_of(ufunc):
            loop = None
    except Exception:  # a version of NumPy that works in another way
        return None
    return loops.setdefault(number, loop)  # other threads may have found it meanwhile


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


cdef int prepare(
    object function, tuple args, dict keywords, bint is_claimed,
    PyObject** array_loop, PyObject** result, Turn* turn
) except -1:
    """Find what a call needs: MISFIT, LEFT_OUT or READY.

    If it is ready, the `ArrayLoop` and the array for the result are the caller's
    references. ``is_claimed``: if it is left out, NumPy will do it now.
    """
    cdef ArrayLoop loop
    if len(args) == 0 or type(args[0]) is not _numpy_structs.ndarray:
        return MISFIT
    if not MIN_ITEMS <= n_items(<NDArray*>args[0]) <= MAX_ITEMS:
        return MISFIT
    loop = find_loop(function, (<NDArray*>args[0]).dtype.number)
    if loop is None or len(args) < loop.inner.n_inputs:
        return MISFIT
    if loop.left_out > 0:
        loop.left_out -= is_claimed
        return LEFT_OUT
    out = find_out(loop, args, keywords)
    if out is None:
        if not inputs_fit(loop, args):
            return MISFIT
        try:
            out = _empty(args[0].shape, loop.result_dtype)
        except MemoryError:  # which NumPy will raise for this task
            return MISFIT
    if not read_arrays(loop, args, out, turn):
        return MISFIT
    Py_INCREF(out)
    result[0] = <PyObject*>out
    Py_INCREF(loop)
    array_loop[0] = <PyObject*>loop
    return READY


cdef bint inputs_fit(ArrayLoop loop, tuple args):
    cdef int i
    for i in range(loop.inner.n_inputs):
        if not fits(args[i], loop.dtype, <NDArray*>args[0], False):
            return False
    return True


cdef bint read_arrays(ArrayLoop loop, tuple args, object out, Turn* turn):
    """Note where the numbers are; False if they are not as a loop needs them.

    Any Python code that runs before the turn may change the arrays.
    """
    cdef int i
    cdef NDArray* first = <NDArray*>args[0]
    turn.size = n_items(first)
    if not (
        MIN_ITEMS <= turn.size <= MAX_ITEMS
        and inputs_fit(loop, args)
        and fits(out, <DType*>loop.result_dtype, first, True)
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


def forget_flags():
    """Try again what NumPy was to do since a flag was set; for tests."""
    for loops in _loops.values():
        for loop in loops.values():
            if loop is not None:
                (<ArrayLoop>loop).left_out = (<ArrayLoop>loop).back_off = 0
