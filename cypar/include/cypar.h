/* The parallel loops of cypar.nogil for C and C++. Cython users need no header: they
 * `cimport cypar.nogil`, whose documentation holds here too.
 *
 *     static int body(void *context, Py_ssize_t begin, Py_ssize_t end) { ... return 0; }
 *
 *     if (cypar_import() < 0)              once per source file, with the GIL
 *         return NULL;
 *     cypar_parallel_for(body, &context, n, 0, -1);      with or without the GIL
 *
 * Build with the include directory cypar.get_include(); nothing is linked.
 */
#ifndef CYPAR_H
#define CYPAR_H

#include <Python.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Both return 0, or -1 with a Python exception set; they run without the GIL. */
typedef int (*cypar_range_body)(void *context, Py_ssize_t begin, Py_ssize_t end);
typedef int (*cypar_reduce_body)(void *context, void *part, Py_ssize_t begin,
                                 Py_ssize_t end);
typedef void (*cypar_combine_body)(void *context, void *total, const void *part);

typedef struct {
    int (*parallel_for)(cypar_range_body, void *, Py_ssize_t, Py_ssize_t, int);
    int (*parallel_reduce)(cypar_reduce_body, cypar_combine_body, void *, void *, size_t,
                           Py_ssize_t, Py_ssize_t, int);
    int (*worker_slot)(void);
    int (*worker_count)(int);
    int (*cancel_requested)(void);
} cypar_functions;

/* One per source file: each that calls cypar calls cypar_import once. */
static cypar_functions cypar_api;

static void *cypar_find(PyObject *exported, const char *name) {
    PyObject *capsule = PyDict_GetItemString(exported, name);
    if (capsule == NULL) {
        PyErr_Format(PyExc_ImportError,
                     "cypar.nogil has no function %s: this was built for another "
                     "version of cypar",
                     name);
        return NULL;
    }
    return PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule));
}

/* Find the functions: 0, or -1 with a Python exception set. Needs the GIL. */
static int cypar_import(void) {
    static const char *const names[] = {"parallel_for", "parallel_reduce", "worker_slot",
                                        "worker_count", "cancel_requested"};
    void *found[5] = {NULL, NULL, NULL, NULL, NULL};
    PyObject *module = PyImport_ImportModule("cypar.nogil"), *exported;
    int i;
    if (module == NULL)
        return -1;
    exported = PyObject_GetAttrString(module, "__pyx_capi__");
    Py_DECREF(module); /* sys.modules keeps it, and its functions, for good */
    if (exported == NULL)
        return -1;
    for (i = 0; i < 5; i++)
        if ((found[i] = cypar_find(exported, names[i])) == NULL)
            break;
    Py_DECREF(exported);
    if (i < 5)
        return -1;
    memcpy(&cypar_api, found, sizeof(cypar_api));
    return 0;
}

/* Call body on pieces of 0..n, on several threads. grain: fewest items of a piece, 0:
 * chosen by time; n_jobs: threads that may work, -1: all processors. */
static inline int cypar_parallel_for(cypar_range_body body, void *context, Py_ssize_t n,
                                     Py_ssize_t grain, int n_jobs) {
    return cypar_api.parallel_for(body, context, n, grain, n_jobs);
}

/* The same with a part per thread, a copy of the `size` bytes at total (the neutral
 * element), and these combined into total in the end. */
static inline int cypar_parallel_reduce(cypar_reduce_body body,
                                        cypar_combine_body combine, void *context,
                                        void *total, size_t size, Py_ssize_t n,
                                        Py_ssize_t grain, int n_jobs) {
    return cypar_api.parallel_reduce(body, combine, context, total, size, n, grain,
                                     n_jobs);
}

/* Number of this thread in the innermost loop, below cypar_worker_count(n_jobs). */
static inline int cypar_worker_slot(void) { return cypar_api.worker_slot(); }
static inline int cypar_worker_count(int n_jobs) {
    return cypar_api.worker_count(n_jobs);
}
/* Whether a loop around this call has failed: finish early then. */
static inline int cypar_cancel_requested(void) { return cypar_api.cancel_requested(); }

#ifdef __cplusplus
}
#endif

#endif
