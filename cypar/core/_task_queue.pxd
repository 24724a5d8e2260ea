"""One call's state: the input (TaskSource), the results (Outcomes), the stop."""

from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport int64_t, uint32_t

from cypar.core._draw_pace cimport DrawPace
from cypar.core._helper_threads cimport Parker
from cypar.core._task_fifo cimport TaskFifo


cdef class TaskSource(TaskFifo):
    cdef object iterator              # the user's; None once it is exhausted
    cdef object draw_context          # copy of the caller's contextvars, for draws
    cdef Call call
    cdef public object capture        # (index, task) -> payload, right after a draw
    cdef public bint packs_kernels    # tasks that are kernels are packed when drawn
    cdef public bint chunks_ufuncs    # a worker may claim several calls of ufuncs
    cdef Py_ssize_t ufunc_misfits     # of these that NumPy has to do
    cdef public bint takes_apart      # of others, function and arguments are kept
    cdef list returned                # heap of (index, payload) given back
    cdef readonly Py_ssize_t drawn    # tasks drawn so far
    cdef readonly Py_ssize_t window   # tasks that may be drawn but not finished
    cdef readonly Py_ssize_t pre_dispatch  # batches; 0 means all
    cdef readonly bint drawing        # a thread is inside the user's iterator
    cdef readonly bint ended
    cdef public DrawPace pace         # None: one more per outcome
    cdef Py_ssize_t low               # so few pending tasks make a worker draw

    cdef bint has_room(self) noexcept
    cdef bint may_start(self) noexcept
    cdef int append(self, tuple task) except -1
    cdef PyObject* pop(self, Py_ssize_t* index, PyObject** function) noexcept
    cdef int advance(self) except -1
    cdef int refill(self, Py_ssize_t enough) except -1
    cdef int draw_ahead(self) except -1
    cdef void stop_pacing(self) noexcept


cdef class Outcomes:
    cdef Call call
    cdef readonly int mode            # LIST, ORDERED or UNORDERED
    cdef readonly list results        # LIST: by index
    cdef dict unread                  # ORDERED: index -> (index, value, bytes)
    cdef object queue                 # UNORDERED: deque of (index, value, bytes)
    cdef set open                     # UNORDERED: drawn indexes without an outcome
    cdef readonly dict errors         # index -> exception
    cdef readonly dict lost           # index -> starts that a worker did not survive
    cdef readonly Py_ssize_t finished   # tasks with an outcome
    cdef readonly Py_ssize_t delivered  # results that the consumer has taken
    cdef readonly Py_ssize_t dropped    # late or second outcomes
    cdef readonly Py_ssize_t max_unread
    cdef readonly Py_ssize_t max_unread_bytes
    cdef readonly Py_ssize_t unread_bytes
    cdef bint starved                 # a draw was refused because the buffer is full
    cdef readonly bint done
    cdef public object hook           # progress, called after every outcome
    cdef object lock                  # makes outcome, hook and refill one step
    cdef bint held                    # notify later: more outcomes follow at once
    cdef bint missed                  # a notify was put off
    cdef uint32_t changes             # park word of waiting consumers and callers
    cdef int waiting                  # threads that wait on it

    cdef void drew(self, Py_ssize_t index)
    cdef bint store(self, Py_ssize_t index, object value, Py_ssize_t size) except -1
    cdef int settle(self) except -1
    cdef void notify(self) noexcept
    cdef void hold(self) noexcept
    cdef void let_go(self) noexcept
    cdef int delivered_one(self, Py_ssize_t size) except -1
    cdef int spin_change(self, uint32_t seen) except -1
    cdef int wait_change(self, uint32_t seen, int64_t timeout_ns) except -1
    cpdef put(self, Py_ssize_t index, object value, Py_ssize_t size=*)


cdef class Call:
    cdef readonly object options
    cdef readonly TaskSource source
    cdef readonly Outcomes outcomes
    cdef int stop_state               # RUNNING, DRAIN or ABORT
    cdef list wakers                  # functions of backends that wait elsewhere
    cdef list sleeping                # Parkers of worker threads without a task
    cdef list members                 # Parkers of all worker threads in the call
    cdef list late                    # of those whose task has timed out
    cdef dict timed                   # index -> running task, if there is a timeout
    cdef Py_ssize_t n_jobs            # worker threads that may join
    cdef public Py_ssize_t joined            # worker threads asked to join so far
    cdef readonly bint over           # the backend is through with the call
    cdef bint gate_open               # more than one worker thread may join
    cdef int64_t begun_ns             # when the first looked for a second one
    cdef Py_ssize_t kernel_chunk      # that one worker takes at a time; 0: not set
    cdef bint kernels_pay             # a second worker is worth it, as far as is known
    cdef public object recruit        # () asks one more worker thread to join
    cdef public object task_context   # contextvars that tasks run in; copied per worker
    cdef public object explain        # (exc, task) -> exc, adds the traceback text

    cdef int wake_one(self) except -1
    cpdef bint wants_single_tasks(self)
    cpdef bint has_open_tasks(self)


# How C functions become tasks of the thread backend: filled in when there are any.
ctypedef object (*pack_function)(tuple task)
ctypedef int (*run_function)(
    Call call, Parker me, Py_ssize_t index, PyObject* first
) except -1

cdef struct KernelHooks:
    PyTypeObject* kernel_type   # tasks whose function is of this type are packed ...
    PyTypeObject* packed_type   # ... when they are drawn, into objects of this one
    pack_function pack
    run_function run        # owns the reference to the first task

cdef KernelHooks kernel_hooks

# How calls of NumPy's ufuncs are run: filled in when NumPy is there.
ctypedef int (*run_ufunc_function)(
    Call call, Parker me, Py_ssize_t index, PyObject* payload, PyObject* function
) except -1

cdef struct UfuncHooks:
    PyTypeObject* kind
    run_ufunc_function run  # owns the references

cdef UfuncHooks ufunc_hooks
