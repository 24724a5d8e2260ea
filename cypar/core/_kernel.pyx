"""`Kernel`: a C function that Python calls, and that workers call without the GIL.

Thread safety: a kernel never changes once made; any thread may call it.
"""

from operator import index

from cpython.exc cimport PyErr_Occurred
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uintptr_t

from cypar.core._kernel_map cimport map_rows
from cypar.core._kernel_tasks cimport register
from cypar.core._native_call cimport (
    EXCEPTION, NEGATIVE, NEVER, NativeKernel, call_loop, check, loop_function,
    has_failed, trampoline,
)
from cypar.core._packing cimport (
    FLOATING, INTEGER, POINTER, Argument, Frame, Slot, box, find_dtypes, release,
)
from cypar.core._trampolines cimport trampoline_find

from cypar.core import signatures
from cypar.core.kernel_sources import find
from cypar.core.signatures import class_of

cdef dict FAILURES = {"none": NEVER, "negative": NEGATIVE, "exception": EXCEPTION}
cdef dict SIZES = {
    "b": 1, "B": 1, "c": 1, "?": 1, "h": 2, "H": 2, "i": 4, "I": 4, "q": 8, "Q": 8,
    "f": 4, "d": 8, "F": 8, "D": 16, "v": 0,
}


cdef class Kernel(NativeKernel):
    """A C function that runs in parallel loops without the GIL.

    Parameters
    ----------
    source : str or module, PyCapsule, LowLevelCallable, cfunc, ctypes function or ufunc
        Where the function comes from. A module, or its name, goes with ``name``: a
        Cython function that the module exports. Such kernels, and those of ufuncs,
        can be pickled.
    name : str, optional
        Of the function in the module.
    signature : str, optional
        ``"double (const double *x, int64_t n)"``, where the source does not tell or
        uses names that cypar does not know.
    dtype : dtype, optional
        Input type of a ufunc.
    errors : {'none', 'negative', 'exception'}, default='none'
        How the function fails: never; with a negative result, which raises
        `KernelError` (not for a ufunc); or with a Python exception set, which Cython's
        ``except -1`` and ``except? -1`` do. Nothing in a C function says so. An
        exception that is set is raised in any case, with a note if it was not declared.
    lengths : dict or 'auto', default='auto'
        ``{position of a pointer: position of the integer that counts its items}``, to
        refuse buffers that are too short. 'auto': if there is one integer argument, it
        counts the items of every pointer. ``{}``: do not check.

    Raises
    ------
    TypeError
        If the source or its signature is not supported; names the argument.
    ValueError
        If the function is not found, or arguments contradict each other.

    Notes
    -----
    Arguments may be numbers of any C type and pointers to numbers: up to 6 of 64 bits,
    up to 4 with ``int`` or ``float`` among them, up to 3 with one narrower type. The
    result may be an ``int`` beside six, too: Cython's ``cdef int f(...) except -1``.
    Pointers take contiguous arrays and other buffers of the right type; what is not
    declared const must be writable.

    The function must be safe to run on several threads at once. Calls let go of the
    GIL; the same function inside ``Parallel(prefer="threads")`` is called in chunks
    without any Python operation between two calls.

    Examples
    --------
    >>> import numpy as np
    >>> from cypar import Kernel
    >>> sqrt = Kernel(np.sqrt, dtype="float64")
    >>> sqrt(9.0)
    3.0
    >>> sqrt.map(np.array([1.0, 4.0, 9.0]))
    array([1., 2., 3.])
    """

    cdef readonly str errors
    cdef readonly dict lengths
    cdef tuple reduced      # what makes the kernel again, or None

    def __init__(
        self, source, name=None, *, signature=None, dtype=None, errors="none",
        lengths="auto",
    ):
        self.n_arguments = -1
        if not isinstance(errors, str) or errors not in FAILURES:
            raise ValueError(
                f"errors must be 'none', 'negative' or 'exception', got {errors!r}"
            )
        found = find(source, name, signature, dtype)
        types = found.signature.arguments
        if found.user_data is not None:
            types = types[: len(types) - 1]
        self.name = found.name
        self.signature = found.signature.text
        self.argument_texts = [
            f"{t.text}" if not t.name or t.name in t.text else f"{t.text} {t.name}"
            for t in types
        ]
        self.errors = errors
        self.keep = found.keep
        for at, a_type in enumerate(types):
            set_argument(&self.arguments[at], a_type)
        self.lengths = _find_lengths(types, lengths, found.loop_data is not None)
        for at, length_at in self.lengths.items():
            self.arguments[at].length_at = length_at
        self.set_function(found, len(types))
        self.set_failures(found.signature.result)
        if found.source is not None:
            options = {"signature": signature, "dtype": dtype, "errors": errors}
            self.reduced = (found.source, options | {"lengths": self.lengths})
        self.n_arguments = len(types)  # from here on it can be called

    cdef int set_function(self, found, int n_arguments) except -1:
        cdef void* address = <void*><uintptr_t>found.address
        signature = found.signature
        if found.loop_data is not None:
            self.loop.function = <loop_function>address
            self.loop.data = <void*><uintptr_t>found.loop_data
            self.loop.n_inputs = n_arguments
            self.native.function = &self.loop
            self.native.call = call_loop
            return 0
        self.native.function = address
        classes = "".join(map(class_of, signature.arguments))
        if found.user_data is not None:
            self.n_hidden = 1
            self.hidden.w = <int64_t>found.user_data
        elif signature.skips_dispatch:
            classes += "i"
            self.n_hidden = 1
            self.hidden.i = 1  # no look-up of a method that overrides this one
        result = class_of(signature.result)
        encoded = classes.encode()
        self.native.call = <trampoline>trampoline_find(
            ord(result), encoded, len(encoded)
        )
        if self.native.call == NULL:
            raise TypeError(
                _no_trampoline(self.describe(), self.argument_texts, classes)
            )
        return 0

    cdef int set_failures(self, a_type) except -1:
        self.native.result = ord(a_type.code)
        self.native.failures = FAILURES[self.errors]
        if self.errors == "negative" and self.loop.function != NULL:
            raise ValueError(
                f"errors='negative', but the loop of the ufunc {self.name!r} has no "
                "result that could say whether it has failed"
            )
        if self.errors == "negative" and a_type.code not in "bhiqfd":
            raise ValueError(
                f"errors='negative', but the result of {self.describe()} is never "
                "negative"
            )
        return 0

    def __call__(self, *args, **kwargs):
        """Call the function without the GIL. Arguments have no names."""
        cdef Frame frame
        cdef Slot result
        cdef PyObject* exception
        if kwargs:
            raise self.no_keywords(kwargs)
        self.fill(args, &frame)
        try:
            with nogil:  # GIL OUT: the function is made for that, and may take long
                self.native.call(self.native.function, frame.slots, &result)
            exception = PyErr_Occurred()
            if has_failed(&self.native, &result, &exception):
                check(self, &result, -1)
        finally:
            release(&frame)
        return box(self.native.result, &result)

    def map(self, *args, out=None, n_jobs=-1, grain=None):
        """Call the function for every row of arrays, on several threads.

        Parameters
        ----------
        *args : array or number
            One for each argument of the function. The first axis of arrays is the one
            that is mapped over: an argument that is a number takes the items of a
            one-dimensional array, a pointer takes the rows, ``x[i]``, which must be
            contiguous. The first axis may have any stride; numbers are the same for
            every call, and so is an array that ``numpy.broadcast_to`` has repeated.
        out : array, optional
            Where the results go: one-dimensional, of the type of the result. It may
            not overlap an input, unless its elements are exactly the same ones.
        n_jobs : int, default=-1
            Threads, the caller included; as in `Parallel`.
        grain : int, optional
            Fewest rows that are worth a piece of their own; None: chosen by time.

        Returns
        -------
        array or None
            ``out``, or a new array. None if the function has no result.

        Raises
        ------
        ValueError, TypeError
            If an argument does not fit; nothing has been called then.
        """
        return map_rows(self, args, out, n_jobs, grain)

    def __repr__(self):
        return f"<Kernel {self.name!r}: {self.signature}>"

    def __reduce__(self):
        if self.reduced is None:
            raise TypeError(
                f"{self.describe()} cannot be pickled, since it has no name to find "
                "it by in another process: use threads, or make it of a Cython module "
                "and a name: Kernel('package.module', 'function')"
            )
        return _make, self.reduced


def _make(source, options):
    return Kernel(*source, **options)


cdef int set_argument(Argument* argument, a_type) except -1:
    code = a_type.code
    argument.code = ord(code)
    argument.size = SIZES[code]
    argument.is_const = a_type.is_const
    argument.length_at = -1
    argument.dtype = argument.twin = NULL
    argument.lowest = argument.highest = 0
    if a_type.is_pointer:
        argument.kind = POINTER
        find_dtypes(argument)
    elif code in "fd":
        argument.kind = FLOATING
    else:
        argument.kind = INTEGER
        n_bits = 1 if code == "?" else 8 * SIZES[code]
        if n_bits < 64:
            if code.islower():
                argument.lowest = -(1 << n_bits - 1)
                argument.highest = (1 << n_bits - 1) - 1
            else:
                argument.highest = (1 << n_bits) - 1
    return 0


def _find_lengths(types, lengths, is_loop):
    """Return {position of a pointer: position of its length} and check it."""
    numbers = [i for i, t in enumerate(types) if not t.is_pointer]
    integers = [i for i in numbers if types[i].code not in "fd"]
    pointers = [i for i, t in enumerate(types) if t.is_pointer and t.code != "v"]
    if isinstance(lengths, str) and lengths == "auto":
        if is_loop or len(integers) != 1:
            return {}
        return {i: integers[0] for i in pointers}
    try:
        lengths = {index(i): index(n) for i, n in dict(lengths or {}).items()}
    except (TypeError, ValueError):
        raise TypeError(
            "lengths must be 'auto' or {position of a pointer: position of an integer"
            f"}}, got {lengths!r}"
        ) from None
    for pointer, integer in lengths.items():
        if pointer not in pointers or integer not in integers:
            raise ValueError(
                f"lengths={lengths!r} must lead from positions of pointers to numbers "
                f"({pointers}) to positions of integers ({integers})"
            )
    return lengths


def _no_trampoline(kernel, texts, classes):
    """Return the message about a signature that has no trampoline."""
    narrow = [i for i, c in enumerate(classes) if c not in "wd"]
    if not narrow:
        which = "the result"
    elif narrow[0] < len(texts):
        which = f"argument {narrow[0]} ({texts[narrow[0]]})"
    else:
        which = "the int that Cython adds to a cpdef function (so declare it cdef)"
    return (
        f"{which} of {kernel} is of a type that cypar cannot pass here: there may be "
        "up to 6 arguments of 64-bit integers, pointers and doubles, up to 4 with int "
        f"or float among them, up to 3 with one narrower type. {signatures.RECIPE}"
    )


register(Kernel)
