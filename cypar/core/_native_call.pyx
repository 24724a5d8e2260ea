"""Call a C function with arguments that were packed before, and see whether it failed.

Thread safety: a NativeKernel never changes once made. Calls need no GIL, packing does.
"""

from cpython.exc cimport PyErr_Occurred

from cypar.core._packing cimport MAX_ARGUMENTS, Frame, Slot, box, pack

from cypar.core.errors import KernelError


cdef class NativeKernel:
    """What calls need to know of a C function; `Kernel` adds how it is made."""

    def __cinit__(self):
        self.n_arguments = -1  # nothing can be called before there is a function

    cdef int fill(self, tuple values, Frame* frame) except -1:
        """Pack the arguments of one call."""
        frame.n_views = 0
        pack(self.arguments, self.n_arguments, values, frame, self)
        if self.n_hidden:
            frame.slots[self.n_arguments] = self.hidden
        return 0

    @property
    def __name__(self):
        return self.name

    @property
    def __qualname__(self):
        return self.name

    def wrong_number(self, n_given):
        """Return the error about a number of arguments that does not fit."""
        if self.n_arguments < 0:
            return TypeError(
                f"this {type(self).__name__} has no function: Kernel.__init__ has not "
                "been called, or has failed; a subclass must call super().__init__()"
            )
        return TypeError(
            f"{self.describe()} takes {self.n_arguments} arguments, {n_given} were "
            "given"
        )

    def no_keywords(self, given):
        """Return the error about arguments with names."""
        names = ", ".join(map(repr, given))
        return TypeError(
            f"{self.describe()} takes no keyword arguments, got {names}: C functions "
            "know their arguments by position only"
        )

    def describe(self, at=None):
        """Name the kernel, or one of its arguments, for messages."""
        if at is None:
            return f"the kernel {self.name!r} ({self.signature})"
        return f"argument {at} ({self.argument_texts[at]}) of the kernel {self.name!r}"


cdef void call_loop(
    void* function, const Slot* args, Slot* result
) noexcept nogil:
    """The trampoline of an inner loop: one turn of it."""
    cdef Loop* loop = <Loop*>function
    cdef char* pointers[MAX_ARGUMENTS + 1]
    cdef Py_ssize_t[MAX_ARGUMENTS + 1] steps
    cdef Py_ssize_t once = 1
    cdef int i
    for i in range(loop.n_inputs):
        pointers[i] = <char*>&args[i]
        steps[i] = 0
    pointers[loop.n_inputs] = <char*>result
    steps[loop.n_inputs] = 0
    loop.function(pointers, &once, steps, loop.data)


cdef double number(char code, const Slot* result) noexcept nogil:
    """A signed result."""
    if code == c"d":
        return result.d
    if code == c"f":
        return result.f
    if code == c"q":
        return <double>result.w
    if code == c"i":
        return result.i
    if code == c"h":
        return result.h
    return result.b


cdef int check(
    NativeKernel kernel, const Slot* result, Py_ssize_t row
) except -1:
    """Raise what `has_failed` has seen, before any other Python code runs.

    On the thread that made the call. ``row`` is its position in a map, or -1.
    """
    if PyErr_Occurred() != NULL:
        if kernel.native.failures == EXCEPTION:
            return -1
        raise_undeclared(kernel)
    value = box(kernel.native.result, result)
    where = "" if row < 0 else f" for row {row}"
    raise KernelError(
        f"the kernel {kernel.name!r} returned {value}{where}, which stands for a "
        "failure",
        value,
        row if row >= 0 else None,
    )


cdef int raise_undeclared(NativeKernel kernel) except -1:
    """Raise the exception that is set, and say that it was not expected."""
    try:
        reraise()
    except BaseException as exc:
        if hasattr(exc, "add_note"):  # Python 3.11
            exc.add_note(
                f"The kernel {kernel.name!r} set this exception. If it may, say so: "
                "Kernel(..., errors='exception')"
            )
        raise


cdef int reraise() except -1:
    return -1  # the exception is set already
