"""Where the memory of a Python object is, and copies of it that are Python objects.

Thread safety: GIL. Copies run without it, on memory that the caller keeps alive.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uintptr_t
from libc.string cimport memcpy

from cypar.core._copying cimport MAX_DIMS, Strided
from cypar.core._port cimport port_huge_pages


def buffer_address(obj):
    """Return (address, bytes, read-only) of a contiguous buffer that stays alive."""
    cdef Py_buffer view
    PyObject_GetBuffer(obj, &view, PyBUF_SIMPLE)
    answer = (<uintptr_t>view.buf, view.len, bool(view.readonly))
    PyBuffer_Release(&view)
    return answer


def copy_to_bytes(obj):
    """Return the bytes of a large buffer, on huge pages where the system has them."""
    cdef bytes copy
    cdef Py_buffer view
    PyObject_GetBuffer(obj, &view, PyBUF_SIMPLE)
    try:
        copy = PyBytes_FromStringAndSize(NULL, view.len)
        fill_copy(PyBytes_AS_STRING(copy), &view)
    finally:
        PyBuffer_Release(&view)
    return copy


def copy_to_bytearray(obj):
    """Return a bytearray with the bytes of a large buffer; see `copy_to_bytes`."""
    cdef bytearray copy
    cdef Py_buffer view
    PyObject_GetBuffer(obj, &view, PyBUF_SIMPLE)
    try:
        copy = PyByteArray_FromStringAndSize(NULL, view.len)
        fill_copy(PyByteArray_AS_STRING(copy), &view)
    finally:
        PyBuffer_Release(&view)
    return copy


cdef void fill_copy(char* target, const Py_buffer* view) noexcept:
    with nogil:  # GIL OUT: copies much
        port_huge_pages(target, view.len)
        memcpy(target, view.buf, view.len)


cdef Py_ssize_t set_strided(Strided* view, tuple layout) except -1:
    """Fill in a Strided from (address, itemsize, shape, strides).

    Returns the bytes of its elements.
    """
    cdef uintptr_t address = layout[0]
    cdef Py_ssize_t n = layout[1]
    cdef tuple shape = layout[2], strides = layout[3]
    cdef int i
    if not 1 <= len(shape) <= MAX_DIMS or len(shape) != len(strides):
        raise ValueError(f"shape {shape} and strides {strides} describe no view")
    view.first = <const char*>address
    view.itemsize = n
    view.ndim = <int>len(shape)
    for i in range(view.ndim):
        view.shape[i] = shape[i]
        view.strides[i] = strides[i]
        n *= view.shape[i]
    return n
