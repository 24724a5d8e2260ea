"""One C function that Python objects are passed to: its address, types and failures."""

from cpython.ref cimport PyObject

from cypar.core._packing cimport MAX_ARGUMENTS, Argument, Frame, Slot

cdef enum Failures:
    NEVER           # if it sets a Python exception, that is raised, with a note
    NEGATIVE        # a negative result
    EXCEPTION       # a Python exception is set

# Calls a function with arguments from slots, exactly typed.
ctypedef void (*trampoline)(
    void* function, const Slot* args, Slot* result
) noexcept nogil

ctypedef void (*loop_function)(
    char** args, const Py_ssize_t* dimensions, const Py_ssize_t* steps, void* data
) noexcept nogil

cdef struct Loop:           # the inner loop of a ufunc
    loop_function function
    void* data
    int n_inputs

cdef struct Native:
    void* function          # of a ufunc: its Loop
    trampoline call
    char result             # code of the result, as in cypar.core.signatures
    Failures failures

cdef class NativeKernel:
    cdef Native native
    cdef Loop loop              # function is NULL: no ufunc
    cdef Argument[MAX_ARGUMENTS] arguments
    cdef int n_arguments        # those that callers give; -1: not made yet
    cdef int n_hidden           # 0 or 1: a last one that they do not give
    cdef Slot hidden
    cdef object keep            # what keeps the function alive
    cdef readonly str name
    cdef readonly str signature
    cdef readonly list argument_texts

    cdef int fill(self, tuple values, Frame* frame) except -1

cdef void call_loop(
    void* function, const Slot* args, Slot* result
) noexcept nogil
cdef double number(char code, const Slot* result) noexcept nogil


cdef inline bint has_failed(
    const Native* native, const Slot* result, PyObject* const* exception
) noexcept nogil:
    """Whether the call has failed, so that `check` raises.

    ``exception`` is `port_exception_place()`, which callers of many functions ask for
    once. It is looked at whatever was declared: with an exception set, neither the
    function nor the interpreter may go on.
    """
    if exception[0] != NULL:
        return True
    return native.failures == NEGATIVE and number(native.result, result) < 0


cdef int check(
    NativeKernel kernel, const Slot* result, Py_ssize_t row
) except -1
cdef int reraise() except -1
