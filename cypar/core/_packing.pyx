"""Turn Python objects into the arguments of C functions, and results back.

Everything is checked here, with the GIL, before the function is called: types and
ranges of numbers; dtype, contiguity, alignment, writability and length of buffers.

An exact ndarray is read through its C struct (see _numpy_structs) and kept by the
caller. All other objects are asked for their buffer, which is held until `release`.

Thread safety: GIL. A frame has one owner.
"""

import sys

from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_STRIDES, PyBuffer_IsContiguous, PyBuffer_Release,
    PyObject_CheckBuffer, PyObject_GetBuffer,
)
from cpython.float cimport PyFloat_AsDouble, PyFloat_CheckExact, PyFloat_FromDouble
from cpython.long cimport PyLong_CheckExact
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.number cimport PyNumber_Index
from libc.stdint cimport int64_t, uint64_t, uintptr_t

from cypar.core cimport _numpy_structs
from cypar.core._numpy_structs cimport (
    ALIGNED, C_CONTIGUOUS, WRITEABLE, NDArray, n_items,
)

cdef dict _dtypes = {}              # code -> tuple of dtypes; keeps them alive

# Letters of buffer formats by the kind of number.
cdef str SIGNED = "bhilqn", UNSIGNED = "BHILQN"
cdef str NATIVE_ORDER = "<" if sys.byteorder == "little" else ">"
cdef dict TYPE_NAMES = {
    "e": "float16", "f": "float32", "d": "float64", "g": "longdouble", "?": "bool",
    "F": "complex64", "Zf": "complex64", "D": "complex128", "Zd": "complex128",
    "c": "int8", "O": "object",
}


# ---- one call ---------------------------------------------------------------------


cdef int pack(
    Argument* arguments, int n, tuple values, Frame* frame, object kernel
) except -1:
    """Fill a frame. After a failure nothing is held."""
    cdef int i
    if len(values) != n:
        raise kernel.wrong_number(len(values))
    try:
        for i in range(n):
            if arguments[i].kind == POINTER:
                pack_pointer(&arguments[i], i, values[i], frame, kernel)
            else:
                pack_number(&arguments[i], i, values[i], &frame.slots[i], kernel)
        check_lengths(arguments, n, frame, kernel)
    except BaseException:
        release(frame)
        raise
    return 0


cdef void release(Frame* frame) noexcept:
    """Let go of the buffers of a frame."""
    while frame.n_views > 0:
        frame.n_views -= 1
        PyBuffer_Release(&frame.views[frame.n_views])
        if frame.n_views == 0:
            PyMem_Free(frame.views)


cdef int check_lengths(
    Argument* arguments, int n, Frame* frame, object kernel
) except -1:
    """Refuse buffers that are shorter than the arguments say."""
    cdef int i, at
    cdef int64_t length
    for i in range(n):
        at = arguments[i].length_at
        if at < 0:
            continue
        length = as_int64(arguments[at].code, &frame.slots[at])
        if length > frame.items[i]:
            raise ValueError(
                f"{kernel.describe(i)} has {frame.items[i]} items, but argument {at} "
                f"is {length}. If that is no number of items, say so: "
                "Kernel(..., lengths={})"
            )
    return 0


cdef int64_t as_int64(char code, const Slot* slot) noexcept:
    """An integer; one above 2 ** 63 is no length anyway, and becomes the highest."""
    if code == c"q":
        return slot.w
    if code == c"Q":
        return slot.w if slot.w >= 0 else 0x7fffffffffffffff
    if code == c"i":
        return slot.i
    if code == c"I":
        return slot.u
    if code == c"h":
        return slot.h
    if code == c"H":
        return slot.H
    if code == c"b":
        return slot.b
    return slot.B


# ---- numbers ----------------------------------------------------------------------


cdef int pack_number(
    Argument* argument, int at, object value, Slot* slot, object kernel
) except -1:
    """Store a Python number as the C number that the argument is."""
    cdef int64_t integer
    try:
        if argument.kind == FLOATING:
            if PyFloat_CheckExact(value):
                slot.d = <double>value
            else:
                slot.d = PyFloat_AsDouble(value)
            if argument.code == c"f":
                slot.f = <float>slot.d
            return 0
        if not PyLong_CheckExact(value):
            value = PyNumber_Index(value)
        if argument.code == c"Q":
            slot.w = <int64_t><uint64_t>value
            return 0
        integer = value
    except TypeError:
        wanted = "a number" if argument.kind == FLOATING else "an integer"
        raise TypeError(
            f"{kernel.describe(at)} must be {wanted}, got {type(value).__name__}"
        ) from None
    except OverflowError:
        shown = f"an integer of {value.bit_length()} bits"
        if value.bit_length() <= 128:
            shown = str(value)
        raise OverflowError(
            f"{kernel.describe(at)} cannot be {shown}: out of range"
        ) from None
    if argument.size < 8 and not argument.lowest <= integer <= argument.highest:
        raise OverflowError(
            f"{kernel.describe(at)} must be between {argument.lowest} and "
            f"{argument.highest}, got {value}"
        )
    store_integer(argument.code, integer, slot)
    return 0


cdef void store_integer(char code, int64_t value, Slot* slot) noexcept:
    if code == c"q":
        slot.w = value
    elif code == c"i":
        slot.i = <int>value
    elif code == c"I":
        slot.u = <unsigned int>value
    elif code == c"h":
        slot.h = <short>value
    elif code == c"H":
        slot.H = <unsigned short>value
    elif code == c"b":
        slot.b = <signed char>value
    else:
        slot.B = <unsigned char>value


cdef object box(char code, const Slot* slot):
    """A C result as a Python object."""
    if code == c"d":
        return PyFloat_FromDouble(slot.d)
    if code == c"f":
        return PyFloat_FromDouble(slot.f)
    if code == c"v":
        return None
    if code == c"Q":
        return <uint64_t>slot.w
    if code == c"?":
        return slot.B != 0
    return as_int64(code, slot)


# ---- buffers ------------------------------------------------------------------------


cdef int pack_pointer(
    Argument* argument, int at, object value, Frame* frame, object kernel
) except -1:
    cdef NDArray* array
    if argument.dtype == NULL:
        find_dtypes(argument)  # NumPy may have been imported since
    if type(value) is _numpy_structs.ndarray:
        array = <NDArray*>value
        if (
            (<PyObject*>array.dtype == argument.dtype
             or <PyObject*>array.dtype == argument.twin)
            and array.flags & (C_CONTIGUOUS | ALIGNED) == C_CONTIGUOUS | ALIGNED
            and (argument.is_const or array.flags & WRITEABLE)
        ):
            frame.slots[at].w = <int64_t><uintptr_t>array.data
            frame.items[at] = n_items(array)
            return 0
    return pack_buffer(argument, at, value, frame, kernel)


cdef int pack_buffer(
    Argument* argument, int at, object value, Frame* frame, object kernel
) except -1:
    cdef Py_buffer* view
    if not PyObject_CheckBuffer(value):
        raise TypeError(
            f"{kernel.describe(at)} must be an array or another buffer, got "
            f"{type(value).__name__}"
        )
    if frame.n_views == 0:
        frame.views = <Py_buffer*>PyMem_Malloc(MAX_ARGUMENTS * sizeof(Py_buffer))
        if frame.views == NULL:
            raise MemoryError()
    view = &frame.views[frame.n_views]
    try:
        get_buffer(value, view, at, kernel)
    except BaseException:
        if frame.n_views == 0:
            PyMem_Free(frame.views)
        raise
    frame.n_views += 1
    check_format(argument, at, view, kernel)
    if not PyBuffer_IsContiguous(view, c"C"):
        raise ValueError(
            f"{kernel.describe(at)} must be contiguous (C order): pass "
            "numpy.ascontiguousarray(x)"
        )
    frame.slots[at].w = <int64_t><uintptr_t>view.buf
    frame.items[at] = view.len // max(argument.size, 1)
    return 0


cdef int get_buffer(object value, Py_buffer* view, int at, object kernel) except -1:
    """Get a buffer with its format; NumPy has none for dates, for instance."""
    try:
        PyObject_GetBuffer(value, view, PyBUF_FORMAT | PyBUF_STRIDES)
    except (ValueError, BufferError) as exc:
        raise TypeError(
            f"{kernel.describe(at)} does not offer its memory as numbers: {exc}"
        ) from exc
    return 0


cdef int check_format(
    Argument* argument, int at, Py_buffer* view, object kernel
) except -1:
    """Refuse a buffer of other items, read-only where it is written, or misaligned."""
    if view.readonly and not argument.is_const:
        raise ValueError(
            f"{kernel.describe(at)} is read-only, but the kernel may write to it; if "
            "it does not, declare the pointer const in the signature"
        )
    if argument.code == c"v":
        return 0
    text = (<bytes>view.format).decode() if view.format != NULL else "B"
    if not fits(chr(argument.code), argument.size, text, view.itemsize):
        wanted = type_name(chr(argument.code), argument.size)
        # what is written to a copy would be lost
        cure = f": pass x.astype({wanted!r})" if argument.is_const else ""
        raise TypeError(
            f"{kernel.describe(at)} has items of type "
            f"{type_name(text, view.itemsize)}, expected {wanted}{cure}"
        )
    if <uintptr_t>view.buf % <uintptr_t>min(argument.size, 8) != 0:
        raise ValueError(f"{kernel.describe(at)} is not aligned: pass a copy")
    return 0


cdef str type_name(str text, Py_ssize_t item_size):
    """NumPy's name for a buffer's format; what has none is shown as it is."""
    letter = text.lstrip("@=^" + NATIVE_ORDER)
    if letter in TYPE_NAMES:
        return TYPE_NAMES[letter]
    if len(letter) == 1 and letter in SIGNED + UNSIGNED:
        return f"{'u' if letter in UNSIGNED else ''}int{8 * item_size}"
    if letter[:1] in ("<", ">", "!") and letter[1:] in "fdbhilqBHILQ":
        return f"{type_name(letter[1:], item_size)} in the other byte order"
    return f"{text!r} (of the struct module) with {item_size} bytes"


cdef bint fits(str code, Py_ssize_t size, str text, Py_ssize_t item_size):
    """Whether items of a buffer's format are the numbers that ``code`` stands for."""
    text = text.lstrip("@=^" + NATIVE_ORDER)
    if item_size != size:
        return False
    if code in "FD":
        return text == ("Zf" if code == "F" else "Zd")
    if len(text) != 1:
        return False
    if code == "c":
        return text in "cbB"
    if code in "fd?":
        return text == code
    if code in "B?":
        return text in "B?"
    return text in (SIGNED if code in SIGNED else UNSIGNED)


# ---- NumPy ---------------------------------------------------------------------------


cdef void find_dtypes(Argument* argument) noexcept:
    """Note which of NumPy's dtypes an argument's pointer may lead to."""
    if argument.kind != POINTER or "numpy" not in sys.modules:
        return
    try:
        found = _dtypes_of(chr(argument.code))
    except Exception:  # numpy is half imported: the buffer protocol will do
        return
    if found:
        argument.dtype = <PyObject*>found[0]
        argument.twin = <PyObject*>found[len(found) - 1]


# Letters of NumPy's dtypes; `long` is as wide as one of its neighbours.
_LETTERS = {"q": "lq", "Q": "LQ", "i": "il", "I": "IL", "c": "bB", "v": ""}


def _dtypes_of(code):
    numpy = sys.modules["numpy"]
    _numpy_structs.learn_numpy(numpy)
    if code not in _dtypes:
        _dtypes[code] = tuple(
            numpy.dtype(letter)
            for letter in _LETTERS.get(code, code)
            if code not in "qQiI"
            or numpy.dtype(letter).itemsize == (8 if code in "qQ" else 4)
        )
    return _dtypes[code]
