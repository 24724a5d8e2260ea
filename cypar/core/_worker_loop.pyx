"""The compiled loop that runs tasks on a thread.

A worker claims ONE task from the FIFO, calls it, stores the result, draws one
more, and repeats, keeping the GIL between tasks: what costs is the number of GIL
hand-overs and of threads that sleep and wake, not the queue (per empty task
0.13-0.23 us in this loop, 1.1-2.0 us with one GIL hand-over per task). Of C functions
it claims a chunk and runs it without the GIL: see _kernel_tasks, _ufunc_tasks.

Thread safety: any number of threads may run the loop for one call.
"""

import threading

from cpython.contextvars cimport PyContext_Copy, PyContext_Enter, PyContext_Exit
from cpython.object cimport Py_TYPE, PyObject_Call, PyObject_CallObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF, PyObject

from cypar.core._helper_threads cimport Parker
from cypar.core._port cimport (
    Py_REFCNT, PyObject_GC_IsTracked, PyObject_GC_Track, port_monotonic_ns,
)
from cypar.core._task_queue cimport (
    Call, Outcomes, TaskSource, kernel_hooks, ufunc_hooks,
)

from cypar.core._task_queue import as_task
from cypar.core.errors import TaskError, attach_completed
from cypar.core.worker_index import swap as swap_index

cdef object _local = threading.local()  # .depth: worker loops on this thread's stack


cdef object _call(tuple task):
    """Call one task; positional arguments are passed without a copy."""
    if len(<dict>task[2]) == 0:
        return PyObject_CallObject(<object>task[0], <tuple>task[1])
    return PyObject_Call(<object>task[0], <tuple>task[1], <dict>task[2])


# What a claimed task consists of says `TaskSource.append`.


cdef tuple _whole(tuple payload, PyObject* function):
    """The task as it was drawn."""
    return payload if function == NULL else (<object>function, payload, {})


cdef object _call_claimed(tuple payload, PyObject* function):
    if function == NULL:
        return _call(payload)
    return PyObject_CallObject(<object>function, payload)


cdef int release_task(PyObject* payload, PyObject* function) except -1:
    """Let go of a task that has run, or will not."""
    if function != NULL and Py_REFCNT(payload) > 1 and len(<tuple>payload) != 0:
        if not PyObject_GC_IsTracked(payload):
            PyObject_GC_Track(payload)  # somebody has kept the arguments
    Py_DECREF(<object>payload)
    Py_XDECREF(function)
    return 0


def is_worker_thread():
    """Whether the current thread is inside a worker loop."""
    return getattr(_local, "depth", 0) > 0


cdef bint _is_main_thread():
    return threading.current_thread() is threading.main_thread()


def work(Call call, parker):
    """Run tasks of ``call`` on this thread until there is nothing left for it."""
    if call.task_context is None:
        return  # the call was over before this thread came
    context = PyContext_Copy(call.task_context)
    _local.depth = getattr(_local, "depth", 0) + 1
    cdef Parker me = parker
    me.index = _free_index(call)
    old_index = swap_index(me.index)
    call.members.append(parker)
    PyContext_Enter(context)
    try:
        _loop(call, me)
    except BaseException as exc:  # a fault of ours becomes the call's error
        call.fail(exc)
    finally:
        PyContext_Exit(context)
        swap_index(old_index)
        _local.depth -= 1
        call.members.remove(parker)
        if not call.members:
            call.outcomes.notify()


cdef Py_ssize_t _free_index(Call call) except -1:
    """Return the lowest number that no worker of the call has, but for late ones."""
    cdef Py_ssize_t index = 0
    cdef set taken = {
        (<Parker>member).index for member in call.members if member not in call.late
    }
    while index in taken:
        index += 1
    return index


cdef int _loop(Call call, Parker me) except -1:
    cdef TaskSource source = call.source
    cdef Outcomes outcomes = call.outcomes
    cdef Py_ssize_t index = 0, size = max(1, <Py_ssize_t>call.options.batch_size)
    cdef bint timed = call.options.timeout_s is not None
    cdef PyObject* payload
    cdef PyObject* function = NULL
    cdef list batch = []
    if timed:
        size = 1  # no task waits behind one that may turn out to be late
    while call.stop_state == 0:
        payload = source.pop(&index, &function)
        if payload == NULL:
            if _draw_more(source, outcomes):
                continue
            if source.ended and source.pending == 0:
                break
            if call.stop_state != 0:
                break
            call.sleeping.append(me)
            try:
                me.park(-1)
            finally:
                if me in call.sleeping:  # a signal ended the wait
                    call.sleeping.remove(me)
            continue
        if Py_TYPE(<object>payload) == kernel_hooks.packed_type:
            kernel_hooks.run(call, me, index, payload)
        elif source.chunks_ufuncs and is_ufunc_call(payload, function):
            ufunc_hooks.run(call, me, index, payload, function)
        elif size == 1:
            if source.pending:
                call.wake_one()
            run_one(call, outcomes, me, index, payload, function, timed)
        else:
            _claim(batch, index, payload, function)
            _run_batch(call, outcomes, me, batch, size, timed)
        if timed and me in call.late:
            call.late.remove(me)
            break  # another thread has taken its place
        # with a hook, put() has drawn one more already
        if outcomes.hook is None and source.pending <= source.low:
            source.draw_ahead()
    return 0


cdef int _draw_more(TaskSource source, Outcomes outcomes) except -1:
    if source.ended or source.drawing:
        return 0
    if outcomes.hook is None:
        source.refill(1)
    else:
        with outcomes.lock:  # "Done k" and the next draw are one step
            source.refill(1)
    return source.pending > 0 and source.may_start()


cdef int run_one(Call call, Outcomes outcomes, Parker me, Py_ssize_t index,
                 PyObject* payload, PyObject* function, bint timed) except -1:
    """Run one claimed task, release it, and store its outcome."""
    cdef object value
    try:
        if timed:
            call.timed[index] = _whole(<tuple>payload, function)
            me.started_ns = port_monotonic_ns()
            me.task_index = index
        value = _call_claimed(<tuple>payload, function)
    except BaseException as exc:
        if timed:
            _ran(call, me, index)
        if isinstance(exc, KeyboardInterrupt) and _is_main_thread():
            call.fail(exc)  # Ctrl-C, where the caller itself works
            return 0
        if call.explain is not None:
            exc = call.explain(exc, _whole(<tuple>payload, function))
        outcomes.put_error(index, exc)
        return 0
    finally:
        release_task(payload, function)  # a sleeping worker keeps no arguments alive
    if timed:
        _ran(call, me, index)
    outcomes.put(index, value, -1)
    return 0


cdef int _ran(Call call, Parker me, Py_ssize_t index) except -1:
    me.task_index = -1
    call.timed.pop(index, None)
    return 0


cdef int _run_batch(Call call, Outcomes outcomes, Parker me, list batch,
                    Py_ssize_t size, bint timed) except -1:
    """Claim the rest of a batch of ``size`` tasks and run it in order."""
    cdef TaskSource source = call.source
    cdef Py_ssize_t index = 0
    cdef PyObject* payload
    cdef PyObject* function = NULL
    cdef tuple task
    while len(batch) < size:
        if source.pending == 0 and not _draw_more(source, outcomes):
            break
        waiting = source.peek()
        if (waiting != NULL
                and Py_TYPE(<object>waiting.payload) == kernel_hooks.packed_type):
            break  # it runs in another way
        payload = source.pop(&index, &function)
        if payload == NULL:
            break
        _claim(batch, index, payload, function)
    if source.pending:
        call.wake_one()
    batch.reverse()
    while batch and call.stop_state == 0:
        index, task = batch.pop()
        Py_INCREF(task)  # given back by run_one
        payload = <PyObject*>task
        task = None
        run_one(call, outcomes, me, index, payload, NULL, timed)
    batch.clear()
    return 0


cdef int _claim(list batch, Py_ssize_t index, PyObject* payload,
                PyObject* function) except -1:
    """Add a task that was taken from the FIFO to a batch."""
    try:
        batch.append((index, _whole(<tuple>payload, function)))
    finally:
        release_task(payload, function)
    return 0


# ---- n_jobs=1 ----------------------------------------------------------------


def run_serial(iterator, list results, hook, bint keep_errors=False):
    """The loop of ``n_jobs=1``: no thread, no queue, nothing pickled.

    Parameters
    ----------
    iterator : iterator of (function, args, kwargs)
    results : list
        Results are appended to it, so that others can count them.
    hook : callable or None
        Called after each finished task.
    keep_errors : bool
        Put a `TaskError` where a task failed, and go on.
    """
    cdef object item
    cdef tuple task = None
    try:
        for item in iterator:
            if not (type(item) is tuple and len(<tuple>item) == 3
                    and type((<tuple>item)[1]) is tuple
                    and type((<tuple>item)[2]) is dict):
                item = as_task(item)
            task = <tuple>item
            if keep_errors:
                results.append(call_serial(task, len(results), True))
            else:
                results.append(_call(task))
            task = None
            if hook is not None:
                hook()
    except BaseException as exc:
        attach_completed(exc, enumerate(results))
        if task is not None and not keep_errors:
            try:
                _label(exc, len(results), task)
            except KeyboardInterrupt as interrupt:
                attach_completed(interrupt, enumerate(results))
                raise
        raise
    return results


def call_serial(tuple task, Py_ssize_t index, bint keep_errors):
    """Call one task; returns its result, or a `TaskError` if errors are kept."""
    try:
        return _call(task)
    except BaseException as exc:
        # In the caller's thread this is Ctrl-C, as a rule: it must end the loop.
        if not keep_errors or isinstance(exc, KeyboardInterrupt):
            _label(exc, index, task)
            raise
        error = exc
    # needed only after a failure, and slow to import
    from cypar.core.traceback_text import attach_task_traceback, format_task_traceback

    attach_task_traceback(error, format_task_traceback(error, *task))
    _label(error, index, task)
    return TaskError(
        index, "exception", error,
        getattr(error, "task_function", None), getattr(error, "task_arguments", None),
    )


def _label(exc, index, task):
    # needed only after a failure, and slow to import
    from cypar.core.traceback_text import label_with_task

    label_with_task(exc, index, task)
