"""NumPy's arrays and ufuncs, read through their C structs."""

from cpython.ref cimport PyObject

# The beginning of PyArray_Descr that all versions have.
cdef struct DType:
    PyObject head
    PyObject* kind_of_scalar
    char kind
    char letter
    char byte_order
    char flags
    int number

# The public beginning of PyArrayObject.
cdef struct NDArray:
    PyObject head
    char* data
    int n_dims
    Py_ssize_t* shape
    Py_ssize_t* strides
    PyObject* base
    DType* dtype
    int flags

cdef enum:
    C_CONTIGUOUS = 0x1
    ALIGNED = 0x100
    WRITEABLE = 0x400   # perhaps with a warning: then the flags are negative

# The public beginning of PyUFuncObject.
cdef struct UFunc:
    PyObject head
    int n_inputs
    int n_outputs
    int n_arguments
    int identity
    void** functions
    void** data
    int n_types

cdef object ndarray             # numpy.ndarray once its layout has been verified

cdef int learn_numpy(object numpy) except -1
cdef bint is_plain(const DType* dtype)
cdef Py_ssize_t n_items(const NDArray* array) noexcept
