"""Threads that BLAS and OpenMP may use inside the tasks of a call on threads.

Tasks that each use all processors for one matrix product are slower than one after
the other. So each worker gets its share: the processors of the call over its workers,
at least one, and no more than the library was set to anyway.

Two kinds of library are told apart. Most have one number for the process: it is set
while calls run, to the least that any of them wants, and set back by the last of them.
OpenMP has one number per thread: each worker sets its own, and sets it back.

Guarantees: nothing is loaded, and nothing costs more than a look, where no such
library can be there: before NumPy or threadpoolctl has been imported. Else a call pays
some 0.5 us, which is why this is compiled: a warm call of two tasks takes 15.

Thread safety: `_lock`, since some libraries are called through ctypes, which lets go
of the GIL.
"""

import os
import sys
import threading
from itertools import product

from cpython.exc cimport PyErr_Occurred
from libc.stdint cimport int64_t, uintptr_t

from cypar.core._port cimport port_monotonic_ns

from cypar.core.cpu import cpu_count

ctypedef int (*get_function)() noexcept nogil
ctypedef void (*set_function)(int n) noexcept nogil

# cpu_count() takes longer than all the rest here; a change counts after this time.
cdef int64_t RECOUNT_NS = 500_000_000

cdef object _lock = threading.Lock()
cdef object _local = threading.local()  # .share: processors of a worker's thread
cdef dict _modules = sys.modules

cdef int _n_cpus = 0
cdef int64_t _recount_at = 0

cdef Py_ssize_t _n_modules = -1     # when the libraries were looked for
cdef list _of_process = []          # libraries with one number
cdef list _of_threads = []          # libraries with one number per thread
cdef list _active = []              # the limits of running calls
cdef list _limited = []             # libraries that were set by the first of them


cdef class Library:
    """A library's number of threads; `get` and `set` need the GIL."""

    cdef get_function get_fast      # NULL: through threadpoolctl
    cdef set_function set_fast
    cdef object controller
    cdef int before                 # what it was set to before the running calls
    cdef int now

    cdef int get(self) except -1:
        if self.get_fast != NULL:
            return self.get_fast()
        return self.controller.get_num_threads()

    cdef int set(self, int n) except -1:
        if self.set_fast != NULL:
            self.set_fast(n)
        else:
            self.controller.set_num_threads(n)
        return 0


cdef class Limits:
    """What the workers of one call may use, from `begin` to `end`.

    Parameters
    ----------
    n_threads : int
        Of BLAS and OpenMP in each worker.
    exactly : bool
        Also where a library was set to less.

    Notes
    -----
    Thread safety: never changes once made.
    """

    cdef readonly int n_threads
    cdef readonly bint exactly

    def __init__(self, int n_threads, bint exactly=False):
        self.n_threads = n_threads
        self.exactly = exactly

    def begin(self):
        """Limit the libraries that have one number for the process."""
        cdef Library library
        raise_pending()
        with _lock:
            look_for_libraries()
            if not _active:
                _limited[:] = _of_process
                for library in _limited:
                    library.before = library.now = library.get()
            _active.append(self)
            apply()

    def end(self):
        """Give the libraries back what they had, or what other calls want."""
        try:
            raise_pending()
        finally:
            with _lock:
                if self in _active:  # else this is a forked child
                    _active.remove(self)
                    apply()

    def run(self, work, call, parker):
        """Run ``work(call, parker)``, a worker's loop, as one of these workers."""
        cdef Library library
        cdef list libraries = _of_threads, before = []
        outer = getattr(_local, "share", None)
        _local.share = self.n_threads
        for library in libraries:
            n = library.get()
            before.append(n)
            library.set(self.of(n))
        try:
            work(call, parker)
        finally:
            _local.share = outer
            for library, n in zip(libraries, before, strict=True):
                library.set(n)

    cdef int of(self, int before) noexcept:
        """The number for a library that was set to ``before``."""
        return self.n_threads if self.exactly else min(self.n_threads, before)


def limits_for(int n_workers, n_threads=None):
    """Return the `Limits` of a call, or None if nothing has to be limited.

    Parameters
    ----------
    n_workers : int
        Threads that run tasks at once.
    n_threads : int, optional
        What the user wants each of them to use.
    """
    if "numpy" not in _modules and "threadpoolctl" not in _modules:
        return None
    if n_threads is not None:
        return Limits(n_threads, True)
    return Limits(share_of_each(n_workers)) if n_workers > 1 else None


def share_of_each(int n_workers):
    """Return how many threads each of ``n_workers`` may use: at least 1.

    A call inside a task divides what that task may use.
    """
    global _n_cpus, _recount_at
    cdef int64_t now
    share = getattr(_local, "share", None)
    if share is None:
        now = port_monotonic_ns()
        if now >= _recount_at:
            _n_cpus = cpu_count()
            _recount_at = now + RECOUNT_NS
        share = _n_cpus
    return max(<int>share // n_workers, 1)


cdef int raise_pending() except -1:
    """Raise an exception that C code has left set.

    With one set, taking the lock would end in a SystemError, with the lock taken.
    """
    return 0 if PyErr_Occurred() == NULL else -1


cdef int apply() except -1:
    """Set each library to the least that a running call wants."""
    cdef Library library
    cdef Limits limits
    cdef int wanted
    for library in _limited:
        wanted = library.before
        if _active:
            wanted = min([limits.of(wanted) for limits in _active])
        # a task may have set the number too, so in the end it is set in any case
        if wanted != library.now or not _active:
            library.set(wanted)
            library.now = wanted
    if not _active:
        _limited.clear()
    return 0


# ---- OpenMP in the chunks of a map ---------------------------------------------


cdef int find_openmp(object limits, OpenMP* openmp) except -1:
    """Note what chunks need; after `Limits.begin`, which has found the libraries."""
    cdef Library library
    openmp.n_threads = (<Limits>limits).n_threads
    openmp.n = 0
    for library in _of_threads:
        if library.set_fast != NULL and openmp.n < MAX_OPENMP:
            openmp.get[openmp.n] = library.get_fast
            openmp.set[openmp.n] = library.set_fast
            openmp.n += 1
    return 0


cdef void limit_openmp(const OpenMP* openmp, int* before) noexcept nogil:
    """Limit this thread; ``before`` gets what it had."""
    cdef int i
    for i in range(openmp.n):
        before[i] = openmp.get[i]()
        if before[i] > openmp.n_threads:
            openmp.set[i](openmp.n_threads)


cdef void restore_openmp(const OpenMP* openmp, const int* before) noexcept nogil:
    cdef int i
    for i in range(openmp.n):
        if openmp.get[i]() != before[i]:  # the function may have set it, too
            openmp.set[i](before[i])


# ---- libraries -----------------------------------------------------------------


cdef int look_for_libraries() except -1:
    """Find the libraries; again only when a module may have brought one with it."""
    global _n_modules, _of_process, _of_threads
    if _n_modules == len(_modules):
        return 0
    import threadpoolctl  # a library with its own threads is loaded already

    found = threadpoolctl.ThreadpoolController().lib_controllers
    # some were built without threads
    found = [c for c in found if c.get_num_threads() is not None]
    _of_process = [as_library(c) for c in found if not is_openmp(c)]
    _of_threads = [as_library(c) for c in found if is_openmp(c)]
    _n_modules = len(_modules)
    return 0


cdef bint is_openmp(controller) except -1:
    layer = getattr(controller, "threading_layer", None)
    return "openmp" in (controller.user_api, layer)


cdef Library as_library(controller):
    cdef Library library = Library()
    library.controller = controller
    if is_openmp(controller):
        find_functions(library, [("omp_get_max_threads", "omp_set_num_threads")])
    elif controller.internal_api == "openblas":
        affixes = product(("", "scipy_"), ("", "64_", "_64"))
        find_functions(
            library,
            [
                (f"{a}openblas_get_num_threads{z}", f"{a}openblas_set_num_threads{z}")
                for a, z in affixes
            ],
        )
    return library


cdef int find_functions(Library library, list names) except -1:
    """Find the functions themselves; if they are not there, threadpoolctl's will do."""
    import ctypes  # slow, and loaded by threadpoolctl already

    loaded = ctypes.CDLL(library.controller.filepath)
    for getter, setter in names:
        get, set_ = getattr(loaded, getter, None), getattr(loaded, setter, None)
        if get is not None and set_ is not None:
            library.get_fast = <get_function><uintptr_t>address_of(ctypes, get)
            library.set_fast = <set_function><uintptr_t>address_of(ctypes, set_)
            return 0
    return 0


cdef object address_of(ctypes, function):
    return ctypes.cast(function, ctypes.c_void_p).value


def _forked():
    """In a forked child: the calls of the parent do not run here."""
    global _lock
    _lock = threading.Lock()
    _active.clear()
    apply()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
