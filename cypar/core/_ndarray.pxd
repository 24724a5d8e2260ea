"""NumPy's arrays, read through their C struct."""

from cpython.ref cimport PyObject

# The public beginning of NumPy's PyArrayObject.
cdef struct NDArray:
    PyObject head
    char* data
    int n_dims
    Py_ssize_t* shape
    Py_ssize_t* strides
    PyObject* base
    PyObject* dtype
    int flags

cdef enum:
    C_CONTIGUOUS = 0x1
    ALIGNED = 0x100
    WRITEABLE = 0x400

cdef object ndarray             # numpy.ndarray once its layout has been verified

cdef int learn_numpy(object numpy) except -1
cdef Py_ssize_t n_items(const NDArray* array) noexcept
