"""Remember by identity what a function consisted of when it was pickled.

A function made of code, defaults, closure cells and globals can change between two
draws of a loop. A Watch keeps references to those parts, so that ids cannot be reused,
and compares them with the parts of now: 50 ns for a function without captures and
about 15 ns more for each cell or global.

Thread safety: GIL. A Watch is never changed.
"""

from cpython.object cimport PyObject

cdef extern from *:
    """
    /* Attributes of Python functions are dear to look up, and audited. */
    #ifdef Py_GIL_DISABLED  /* another thread may replace the dict just now */
    static Py_ssize_t watch_n_attributes(PyObject *function) {
        PyObject *dict = PyObject_GenericGetDict(function, NULL);
        Py_ssize_t n = dict == NULL ? -1 : PyDict_Size(dict);
        Py_XDECREF(dict);
        return n;
    }
    #else
    static Py_ssize_t watch_n_attributes(PyObject *function) {
        PyObject *dict = ((PyFunctionObject *)function)->func_dict;
        return dict == NULL ? 0 : PyDict_Size(dict);
    }
    #endif
    """
    Py_ssize_t watch_n_attributes(object) except -1

cdef extern from "Python.h":
    bint PyFunction_Check(object)
    PyObject* PyFunction_GetCode(object) except NULL
    PyObject* PyFunction_GetDefaults(object)    # NULL, without an exception, for None
    PyObject* PyFunction_GetKwDefaults(object)


cdef class _Marker:
    """A value that no user object is identical to."""


ROOT = _Marker()     # stands for the watched function itself, to avoid a cycle
MISSING = _Marker()  # an empty cell, or a key that is not in the dict

cdef object _root = ROOT
cdef object _missing = MISSING


cdef class Watch:
    """The parts of one function, and ``payload``, what was made of them."""

    def __init__(
        self, owner, bint is_weak, tuple functions, tuple cells, tuple names,
        tuple sizes, payload
    ):
        self.owner = owner
        self.is_weak = is_weak
        self.functions = functions
        self.cells = cells
        self.names = names
        self.sizes = sizes
        self.payload = payload

    cpdef bint holds(self, object function) except -1:
        """Tell whether this is the watched function and all its parts are the same."""
        owner = self.owner() if self.is_weak else self.owner
        if owner is not function:
            return False
        return (
            _functions_hold(self.functions, function)
            and _cells_hold(self.cells, function)
            and _names_hold(self.names, function)
            and _sizes_hold(self.sizes)
        )


cdef bint _functions_hold(tuple functions, object root) except -1:
    cdef tuple part
    for part in functions:
        function = root if part[0] is _root else part[0]
        if not PyFunction_Check(function):
            raise TypeError(f"not a function written in Python: {function!r}")
        if (
            PyFunction_GetCode(function) != <PyObject*>part[1]
            or _or_none(PyFunction_GetDefaults(function)) != <PyObject*>part[2]
            or _or_none(PyFunction_GetKwDefaults(function)) != <PyObject*>part[3]
            or watch_n_attributes(function) != <Py_ssize_t>part[4]
        ):
            return False
    return True


cdef inline PyObject* _or_none(PyObject* value) noexcept:
    return <PyObject*>None if value == NULL else value


cdef bint _cells_hold(tuple cells, object root) except -1:
    cdef tuple part
    for part in cells:
        try:
            value = part[0].cell_contents
        except ValueError:  # the cell is empty
            value = _missing
        if value is not (root if part[1] is _root else part[1]):
            return False
    return True


cdef bint _names_hold(tuple names, object root) except -1:
    cdef tuple part
    for part in names:
        value = (<dict?>part[0]).get(part[1], _missing)
        if value is not (root if part[2] is _root else part[2]):
            return False
    return True


cdef bint _sizes_hold(tuple sizes) except -1:
    cdef tuple part
    for part in sizes:
        if len(<dict?>part[0]) != <Py_ssize_t>part[1]:
            return False
    return True
