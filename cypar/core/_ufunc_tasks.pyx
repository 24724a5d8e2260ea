"""Calls of NumPy's ufuncs as tasks of the thread backend, without the GIL.

A ufunc gives the GIL away for each call and has to win it back, which costs more than
a call of a few microseconds. So a task ``(ufunc, arrays, {})`` that is nothing but one
turn of an inner loop is packed as a call of that loop, see _kernel_tasks. These are:

- ufuncs of NumPy itself, which do nothing but calculate, with one result;
- of whole arrays: ndarrays of the same shape, C-contiguous, aligned, of one dtype that
  the ufunc takes as it is; perhaps with one for the result, apart from the others;
- of `MAX_ITEMS` numbers at most: longer calls lose nothing by the GIL.

NumPy does all others itself. The results are the same to the bit: it is the same loop
on the same memory. (Tried once for each, in case a version of NumPy calls another.)

What NumPy does after the loop is to look at the floating-point flags, and to ignore,
warn or raise as `numpy.errstate` says. Where one is set, NumPy therefore does the whole
call again, which can be done since no input was written to.

Thread safety: packing needs the GIL, the loops do not.
"""

import sys

from cpython.exc cimport PyErr_Clear, PyErr_Occurred
from cpython.object cimport PyTypeObject
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uintptr_t

from cypar.core cimport _ndarray
from cypar.core._kernel_tasks cimport PackedCall
from cypar.core._native_call cimport NEGATIVE, NativeKernel, loop_function
from cypar.core._ndarray cimport ALIGNED, C_CONTIGUOUS, WRITEABLE, NDArray, n_items
from cypar.core._packing cimport Slot
from cypar.core._task_queue cimport kernel_hooks

from cypar.core.ufunc_loops import loop_for, number_dtypes, numpy_ufuncs, sample

cdef extern from "<fenv.h>" nogil:
    int feclearexcept(int flags)
    int fetestexcept(int flags)
    int FE_DIVBYZERO, FE_INVALID, FE_OVERFLOW, FE_UNDERFLOW

cdef enum:
    MAX_INPUTS = 3
    MAX_ITEMS = 32768   # 20 us of the cheapest loops; the GIL costs below 1

cdef object _empty = None       # numpy.empty
cdef object _ufunc = None       # numpy.ufunc
cdef dict _loops = {}           # ufunc of NumPy -> {id(dtype): ArrayLoop or None}
cdef dict _dtypes = {}          # id(dtype) -> dtype; long equals long long, so by id

# An inner loop over whole arrays.
cdef struct Whole:
    loop_function function
    void* data
    int n_inputs
    Py_ssize_t[MAX_INPUTS + 1] steps


cdef class ArrayLoop(NativeKernel):
    """The inner loop of a ufunc for arrays of one dtype."""

    cdef Whole whole
    cdef object dtype
    cdef object result_dtype
    cdef bint wants_out_named   # else it warns

    def __init__(self, ufunc, dtype, found):
        cdef int i
        address, data, result_dtype = found
        self.name = ufunc.__name__
        self.dtype = dtype
        self.result_dtype = result_dtype
        self.wants_out_named = ufunc.__name__ in ("maximum", "minimum")  # NumPy 2.4
        self.whole.function = <loop_function><void*><uintptr_t>address
        self.whole.data = <void*><uintptr_t>data
        self.whole.n_inputs = ufunc.nin
        for i in range(self.whole.n_inputs):
            self.whole.steps[i] = dtype.itemsize
        self.whole.steps[self.whole.n_inputs] = result_dtype.itemsize
        self.native.function = &self.whole
        self.native.call = run_loop
        self.native.result = c"q"
        self.native.failures = NEGATIVE

    cdef bint fill_arrays(self, tuple arrays, Slot* slots) except -1:
        """Turn the inputs and the array for the result into slots, if they fit."""
        cdef int i, n = self.whole.n_inputs
        cdef NDArray* first = <NDArray*>arrays[0]
        cdef NDArray* out = <NDArray*>arrays[n]
        cdef Py_ssize_t size = n_items(first)
        if not 0 < size <= MAX_ITEMS or first.n_dims == 0:
            return False
        if not fits(arrays[n], self.result_dtype, first, WRITEABLE):
            return False
        for i in range(n):
            if not fits(arrays[i], self.dtype, first, 0) or overlap(
                <NDArray*>arrays[i], size * self.whole.steps[i],
                out, size * self.whole.steps[n],
            ):
                return False
        for i in range(n + 1):
            slots[i].w = <int64_t><uintptr_t>(<NDArray*>arrays[i]).data
        slots[n + 1].w = size
        return True

    def is_that_of(self, ufunc):
        """Whether the ufunc itself gives the same results."""
        cdef Slot[MAX_INPUTS + 2] slots
        cdef Slot done
        numpy = sys.modules["numpy"]
        inputs = (sample(self.dtype),) * self.whole.n_inputs
        ours, theirs = numpy.zeros((2, len(inputs[0])), self.result_dtype)
        if not self.fill_arrays((*inputs, ours), slots):
            return False
        run_loop(&self.whole, slots, &done)
        if PyErr_Occurred() != NULL:
            PyErr_Clear()
            return False
        with numpy.errstate(all="ignore"):
            ufunc(*inputs, out=theirs)
        return ours.tobytes() == theirs.tobytes()


cdef bint fits(
    object value, object dtype, const NDArray* like, int flags
) noexcept:
    """Whether NumPy would run a loop on this array's memory as it is."""
    cdef int i
    cdef NDArray* array = <NDArray*>value
    flags |= C_CONTIGUOUS | ALIGNED
    if (
        type(value) is not _ndarray.ndarray
        or array.dtype != <PyObject*>dtype
        or array.n_dims != like.n_dims
        or array.flags & flags != flags
    ):
        return False
    for i in range(like.n_dims):
        if array.shape[i] != like.shape[i]:
            return False
    return True


cdef bint overlap(
    const NDArray* one, Py_ssize_t one_bytes, const NDArray* two, Py_ssize_t two_bytes
) noexcept:
    return one.data < two.data + two_bytes and two.data < one.data + one_bytes


cdef void run_loop(void* function, const Slot* args, Slot* result) noexcept nogil:
    """The trampoline of a loop over whole arrays; -1 if it has set a flag."""
    cdef Whole* whole = <Whole*>function
    cdef int i, n = whole.n_inputs
    cdef char* pointers[MAX_INPUTS + 1]
    cdef Py_ssize_t size = args[n + 1].w
    cdef int flags = FE_DIVBYZERO | FE_INVALID | FE_OVERFLOW | FE_UNDERFLOW
    if fetestexcept(flags):  # of something before; to clear them takes ten times longer
        feclearexcept(flags)
    for i in range(n + 1):
        pointers[i] = <char*><uintptr_t>args[i].w
    whole.function(pointers, &size, whole.steps, whole.data)
    result.w = -1 if fetestexcept(flags) else 0


cdef ArrayLoop find_loop(object ufunc, object dtype):
    """The loop for arrays of a dtype; None if NumPy itself has to do the call."""
    cdef dict loops = <dict>_loops.get(ufunc)
    if loops is None:
        return None
    key = <uintptr_t><PyObject*>dtype
    if key not in loops:
        if key not in _dtypes:
            return None
        loops[key] = make_loop(ufunc, dtype)
    return loops[key]


cdef ArrayLoop make_loop(object ufunc, object dtype):
    cdef ArrayLoop loop
    try:
        found = loop_for(ufunc, dtype)
        if found is not None:
            loop = ArrayLoop(ufunc, dtype, found)
            if loop.is_that_of(ufunc):
                return loop
    except Exception:  # a version of NumPy that works in another way
        pass
    return None


cdef object pack_call(tuple task):
    """Pack a task whose function is a ufunc, or return None."""
    cdef tuple arrays = <tuple>task[1]
    cdef dict keywords = <dict>task[2]
    cdef Py_ssize_t n = len(arrays)
    cdef PackedCall packed
    if n == 0 or type(arrays[0]) is not _ndarray.ndarray:
        return None
    loop = find_loop(task[0], <object>(<NDArray*>arrays[0]).dtype)
    if loop is None:
        return None
    if n == loop.whole.n_inputs:
        if len(keywords) != 0:
            if len(keywords) != 1 or "out" not in keywords:
                return None
            arrays += (keywords["out"],)
        elif n_items(<NDArray*>arrays[0]) <= MAX_ITEMS:
            arrays += (_empty(arrays[0].shape, loop.result_dtype),)
        else:
            return None
    elif n != loop.whole.n_inputs + 1 or len(keywords) != 0 or loop.wants_out_named:
        return None
    packed = PackedCall.__new__(PackedCall)
    if not loop.fill_arrays(arrays, packed.frame.slots):
        return None
    packed.kernel = loop
    packed.task = task
    packed.out = arrays[loop.whole.n_inputs]
    return packed


def learn():
    """Have ufuncs packed from now on if NumPy is imported; return whether it is."""
    global _empty, _ufunc
    if _empty is not None:
        return True
    numpy = sys.modules.get("numpy")
    try:
        _ndarray.learn_numpy(numpy)
        _dtypes.update((id(dtype), dtype) for dtype in number_dtypes())
        for ufunc in numpy_ufuncs():
            if ufunc.nin <= MAX_INPUTS:
                _loops[ufunc] = {}
        _ufunc, empty = numpy.ufunc, numpy.empty
    except (AttributeError, RuntimeError):  # another thread is importing it
        return False
    if _ndarray.ndarray is None:
        return False
    kernel_hooks.ufunc_type = <PyTypeObject*>_ufunc
    kernel_hooks.pack_ufunc = pack_call
    _empty = empty
    return True


def packs(function, *args, **kwargs):
    """Whether a task of such a call would be packed; for tests."""
    return learn() and pack_call((function, args, kwargs)) is not None
