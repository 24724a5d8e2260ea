/* A C extension that uses cypar.h, as a user would write it. */
#include "cypar.h"

static int fill(void *context, Py_ssize_t begin, Py_ssize_t end) {
    double *x = (double *)context;
    for (Py_ssize_t i = begin; i < end; i++)
        x[i] = cypar_cancel_requested() ? -1.0 : (double)i;
    return cypar_worker_slot() < cypar_worker_count(2) ? 0 : -1;
}

static int add(void *context, void *part, Py_ssize_t begin, Py_ssize_t end) {
    for (Py_ssize_t i = begin; i < end; i++)
        *(double *)part += ((double *)context)[i];
    return 0;
}

static void combine(void *context, void *total, const void *part) {
    (void)context;
    *(double *)total += *(const double *)part;
}

static int fail(void *context, Py_ssize_t begin, Py_ssize_t end) {
    PyGILState_STATE state = PyGILState_Ensure();
    (void)context, (void)end;
    PyErr_Format(PyExc_KeyError, "item %zd", begin);
    PyGILState_Release(state);
    return -1;
}

static PyObject *fill_and_sum(PyObject *self, PyObject *number) {
    Py_ssize_t n = PyLong_AsSsize_t(number);
    double *x = (double *)PyMem_Malloc(n * sizeof(double)), total = 0;
    (void)self;
    if (x == NULL)
        return PyErr_NoMemory();
    int status = cypar_parallel_for(fill, x, n, 0, 2);
    if (status == 0)
        status = cypar_parallel_reduce(add, combine, x, &total, sizeof(total), n, 0, 2);
    PyMem_Free(x);
    return status < 0 ? NULL : PyFloat_FromDouble(total);
}

static PyObject *raise_item(PyObject *self, PyObject *ignored) {
    (void)self, (void)ignored;
    return cypar_parallel_for(fail, NULL, 100, 1, 2) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {{"fill_and_sum", fill_and_sum, METH_O, NULL},
                                {"raise_item", raise_item, METH_NOARGS, NULL},
                                {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "c_module", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_c_module(void) {
    return cypar_import() < 0 ? NULL : PyModule_Create(&module);
}
