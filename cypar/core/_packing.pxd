"""Python objects as the arguments of C functions, checked before the call."""

from cpython.buffer cimport Py_buffer
from cpython.ref cimport PyObject
from libc.stdint cimport (
    int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t,
)

cdef enum:
    MAX_ARGUMENTS = 6

# A C number or pointer.
cdef union Slot:
    int64_t w       # 64-bit integers, pointers
    double d
    float f
    int32_t i
    uint32_t u
    int16_t h
    uint16_t H
    int8_t b
    uint8_t B

cdef enum Kind:
    POINTER
    INTEGER
    FLOATING

# What one argument must be.
cdef struct Argument:
    Kind kind
    char code           # as in cypar.core.signatures; of what a pointer leads to
    bint is_const       # a pointer whose memory is only read
    Py_ssize_t size     # bytes of the number, or of what the pointer leads to; void: 0
    int64_t lowest      # of an integer of 4 bytes or fewer
    int64_t highest
    int length_at       # the integer argument that counts a pointer's items, or -1
    PyObject* dtype     # borrowed: NumPy's dtypes for the code, or NULL
    PyObject* twin      # where two dtypes have the same code: long, long long

# The arguments of one call. Begin with n_views = 0, end with `release`.
cdef struct Frame:
    Slot slots[MAX_ARGUMENTS]
    Py_ssize_t items[MAX_ARGUMENTS]     # behind each pointer
    int n_views
    Py_buffer* views                    # allocated for the first object that needs one

cdef int pack(
    Argument* arguments, int n, tuple values, Frame* frame, object kernel
) except -1
cdef int pack_number(
    Argument* argument, int at, object value, Slot* slot, object kernel
) except -1
cdef void release(Frame* frame) noexcept
cdef int64_t as_int64(char code, const Slot* slot) noexcept
cdef object box(char code, const Slot* slot)

cdef int get_buffer(object value, Py_buffer* view, int at, object kernel) except -1
cdef int check_format(
    Argument* argument, int at, Py_buffer* view, object kernel
) except -1
cdef int check_lengths(
    Argument* arguments, int n, Frame* frame, object kernel
) except -1
cdef void find_dtypes(Argument* argument) noexcept
