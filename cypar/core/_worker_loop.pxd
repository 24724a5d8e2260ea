"""The compiled loop that runs tasks on a thread."""

from cpython.object cimport PyObject

from cypar.core._helper_threads cimport Parker
from cypar.core._task_queue cimport Call, Outcomes


cdef int run_one(Call call, Outcomes outcomes, Parker me, Py_ssize_t index,
                 PyObject* payload, PyObject* function, bint timed) except -1
