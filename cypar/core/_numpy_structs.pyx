"""NumPy's arrays and ufuncs, read through their C structs.

NumPy's ABI fixes their layout, which is verified all the same. To read an array takes
15 ns instead of 150 for the buffer protocol, which has to describe the dtype in a
string. No buffer export is needed where the caller keeps the array: one that others
refer to does not let go of its memory, unless ``resize(refcheck=False)`` makes it.

Thread safety: GIL.
"""

from libc.stdint cimport uintptr_t

ndarray = None
cdef bint _seen = False


cdef int learn_numpy(object numpy) except -1:
    """Verify the struct; where it is another, `ndarray` stays None."""
    global ndarray, _seen
    if _seen:
        return 0
    array = numpy.zeros((5, 3, 2), "f4")
    views = [array, array[::2], array[:, 1:, :1], array[3, 1], array[0, 0, :0]]
    dtypes = [numpy.dtype(code) for code in ("?", "i1", ">i4", "<u8", "f4", "c16")]
    if all([_reads_right(view) for view in views] + [_is_right(d) for d in dtypes]):
        array.flags.writeable = False
        if _reads_right(array):
            ndarray = numpy.ndarray
    _seen = True
    return 0


cdef bint _reads_right(object view) except -1:
    cdef NDArray* array = <NDArray*>view
    cdef int i
    flags = view.flags
    if (
        array.n_dims != view.ndim
        or <PyObject*>array.dtype != <PyObject*>view.dtype
        or <uintptr_t>array.data != <uintptr_t>view.__array_interface__["data"][0]
        or bool(array.flags & C_CONTIGUOUS) != flags.c_contiguous
        or bool(array.flags & ALIGNED) != flags.aligned
        or bool(array.flags & WRITEABLE) != flags.writeable
    ):
        return False
    for i in range(array.n_dims):
        if array.shape[i] != view.shape[i] or array.strides[i] != view.strides[i]:
            return False
    return True


cdef bint _is_right(object dtype) except -1:
    cdef DType* struct = <DType*>dtype
    return (
        (chr(struct.kind), chr(struct.letter), chr(struct.byte_order), struct.number)
        == (dtype.kind, dtype.char, dtype.byteorder, dtype.num)
    )


cdef bint is_plain(const DType* dtype):
    """Whether all there is to the dtype of a number is its ``number``.

    NumPy has one object for each of these, but makes others when it unpickles arrays.
    """
    if dtype.byte_order != c"=" and dtype.byte_order != c"|":
        return False
    return (<object><PyObject*>dtype).metadata is None


cdef Py_ssize_t n_items(const NDArray* array) noexcept:
    cdef Py_ssize_t n = 1
    cdef int i
    for i in range(array.n_dims):
        n *= array.shape[i]
    return n


def loop_at(ufunc, int i):
    """Return the address of the loop for ``ufunc.types[i]`` and its last argument.

    Raises
    ------
    TypeError
        If the loop works on more than single numbers, or has more than one result.
    """
    cdef UFunc* struct = <UFunc*>ufunc
    if (struct.n_inputs, struct.n_outputs, struct.n_types) != (
        ufunc.nin, ufunc.nout, ufunc.ntypes
    ) or not 0 <= i < struct.n_types:
        raise TypeError("this version of NumPy has another layout of ufuncs")
    if ufunc.signature is not None or ufunc.nout != 1 or struct.functions[i] == NULL:
        raise TypeError(
            f"the ufunc {ufunc.__name__} cannot be a kernel: it must have one result "
            "for one number of each input"
        )
    return <uintptr_t>struct.functions[i], (
        <uintptr_t>struct.data[i] if struct.data != NULL else 0
    )
