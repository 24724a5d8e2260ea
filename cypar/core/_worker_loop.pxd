"""The compiled loop that runs tasks on a thread."""

from cpython.object cimport Py_TYPE, PyObject, PyTypeObject

from cypar.core._helper_threads cimport Parker
from cypar.core._task_queue cimport Call, Outcomes, ufunc_hooks


cdef int run_one(Call call, Outcomes outcomes, Parker me, Py_ssize_t index,
                 PyObject* payload, PyObject* function, bint timed) except -1
cdef int release_task(PyObject* payload, PyObject* function) except -1


cdef inline bint is_ufunc_call(PyObject* payload, PyObject* function) noexcept:
    """Whether a claimed or waiting task, not a packed one, calls one of NumPy's."""
    if function == NULL:
        if Py_TYPE(<object>payload) != <PyTypeObject*>tuple:
            return False
        function = <PyObject*>(<tuple>payload)[0]
    return Py_TYPE(<object>function) == ufunc_hooks.kind
