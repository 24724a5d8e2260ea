"""The inner loops of NumPy's ufuncs over whole arrays."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from cypar.core._native_call cimport loop_function
from cypar.core._numpy_structs cimport DType

cdef enum:
    MAX_INPUTS = 3

# An inner loop, as its calls need it.
cdef struct InnerLoop:
    loop_function function
    void* data
    int n_inputs
    Py_ssize_t[MAX_INPUTS + 1] steps    # bytes, of the inputs and of the result

# One turn of a loop: what a call needs.
cdef struct Turn:
    char* pointers[MAX_INPUTS + 1]  # to the inputs, then to the result
    Py_ssize_t size                 # items
    int64_t spent_ns

cdef class ArrayLoop:
    cdef InnerLoop inner
    cdef DType* dtype           # which NumPy keeps for ever, like the next
    cdef object result_dtype
    cdef bint wants_out_named   # else it warns
    cdef double item_ns         # that it takes; 0: not known yet
    cdef Py_ssize_t left_out    # calls that NumPy shall do
    cdef Py_ssize_t back_off    # so many after the last flag

    cdef bint is_that_of(self, object ufunc) except -1
    cdef void learn(self, const Turn* turn) noexcept
    cdef void flagged(self) noexcept

cdef enum:
    MISFIT      # NumPy has to do it
    LEFT_OUT    # NumPy shall do it, since others have set flags
    READY

cdef int prepare(
    object function, tuple args, dict keywords, bint is_claimed,
    PyObject** array_loop, PyObject** result, Turn* turn
) except -1
cdef bint read_arrays(ArrayLoop loop, tuple args, object out, Turn* turn)
cdef bint run_loop(const InnerLoop* inner, Turn* turn) noexcept nogil
cdef object learn_ufuncs()
