# cython: language_level=3, boundscheck=False, wraparound=False
"""Reductions and task groups that tests can look into."""

from cpython.exc cimport PyErr_SetString
from libc.stdint cimport int64_t

from cypar.nogil cimport (
    TaskGroup, add_double, add_int64, parallel_for, parallel_reduce,
)
from native_tools cimport sleep_us, test_add, test_burn, test_load


# ---- reductions ----------------------------------------------------------------


cdef int sum_body(
    void* context, void* part, Py_ssize_t begin, Py_ssize_t end
) except -1 nogil:
    cdef Py_ssize_t i
    for i in range(begin, end):
        (<double*>part)[0] += (<double*>context)[i]
    return 0


def sum_doubles(double[::1] x, int n_jobs=-1, Py_ssize_t grain=0):
    cdef double total = 0.0
    with nogil:
        parallel_reduce(
            sum_body, add_double, &x[0] if x.shape[0] else NULL, &total,
            sizeof(double), x.shape[0], grain, n_jobs,
        )
    return total


cdef int count_body(
    void* context, void* part, Py_ssize_t begin, Py_ssize_t end
) except -1 nogil:
    if begin <= (<Py_ssize_t*>context)[0] < end:
        with gil:
            raise KeyError((<Py_ssize_t*>context)[0])
    (<int64_t*>part)[0] += end - begin
    return 0


def count_items(Py_ssize_t n, int n_jobs, Py_ssize_t fail_at=-1):
    cdef int64_t total = 0
    parallel_reduce(
        count_body, add_int64, &fail_at, &total, sizeof(total), n, 0, n_jobs
    )
    return total


# ---- groups -------------------------------------------------------------------

cdef struct Meeting:
    int64_t here
    int64_t wanted
    int64_t met


cdef int meet_body(void* context, Py_ssize_t begin, Py_ssize_t end) except -1 nogil:
    cdef Meeting* m = <Meeting*>context
    cdef int tries = 0
    sleep_us(2000)  # an item so long that sleeping helpers are woken for it
    test_add(&m.here, 1)
    while test_load(&m.here) < m.wanted and tries < 50000:
        tries += 1
        sleep_us(100)
    if test_load(&m.here) >= m.wanted:
        test_add(&m.met, 1)
    return 0


cdef struct Task:
    int64_t* total
    long burn
    void* function      # called with the GIL, or NULL
    void* group
    int depth


cdef int task(void* context) except -1 nogil:
    cdef Task* t = <Task*>context
    cdef long long sink = 0
    test_burn(&sink, t.burn)
    test_add(t.total, 1)
    if t.function != NULL:
        with gil:
            (<object>t.function)()
    return 0


def make_group(int n_jobs):
    return TaskGroup(n_jobs)


def run_group(Py_ssize_t n, int n_jobs=-1, long burn=0, function=None, bint gil=True,
              TaskGroup group=None):
    """Spawn n equal tasks and wait: how many ran."""
    cdef int64_t total = 0
    cdef Task t
    cdef Py_ssize_t _
    if group is None:
        group = TaskGroup(n_jobs)
    t.total = &total
    t.burn = burn
    t.function = NULL if function is None else <void*>function
    try:
        if gil:
            for _ in range(n):
                group.spawn(task, &t)
            group.wait()
        else:
            with nogil:
                for _ in range(n):
                    group.spawn(task, &t)
                group.wait()
    except ValueError as exc:
        return exc, total
    return total


cdef int hiding_task(void* context) except -1 nogil:
    with gil:
        PyErr_SetString(ValueError, "hidden")
    return 0


def run_hiding(int n, int n_jobs):
    """Tasks that set an exception and do not say so."""
    group = TaskGroup(n_jobs)
    for _ in range(n):
        group.spawn(hiding_task, NULL)
    group.wait()


cdef int tree(void* context) except -1 nogil:
    """A task that spawns two of itself until it is deep enough."""
    cdef Task* t = <Task*>context
    test_add(t.total, 1)
    if t.depth > 0:
        (<TaskGroup>t.group).spawn(tree, t + 1)
        (<TaskGroup>t.group).spawn(tree, t + 1)
    return 0


def run_tree(int depth, int n_jobs=-1):
    """Nodes of a binary tree of tasks."""
    cdef int64_t total = 0
    cdef Task[32] levels
    cdef TaskGroup group = TaskGroup(n_jobs)
    cdef int i
    assert depth < 32
    for i in range(depth + 1):
        levels[i].total = &total
        levels[i].group = <void*>group
        levels[i].depth = depth - i
    group.spawn(tree, &levels[0])
    with nogil:
        group.wait()
    return total


cdef int meeting_task(void* context) except -1 nogil:
    return meet_body(context, 0, 1)


def meet_in_group(int n, int n_jobs):
    cdef Meeting m
    cdef TaskGroup group = TaskGroup(n_jobs)
    cdef int _
    m.here = m.met = 0
    m.wanted = n
    for _ in range(n):
        group.spawn(meeting_task, &m)
    group.wait()
    return m.met


def leave_group(Py_ssize_t n, int n_jobs, int64_t[::1] total, function=None):
    """Spawn tasks and let the group go without a wait."""
    cdef Task t
    cdef TaskGroup group = TaskGroup(n_jobs)
    cdef Py_ssize_t _
    t.total = &total[0]
    t.burn = 1000
    t.function = NULL if function is None else <void*>function
    for _ in range(n):
        group.spawn(task, &t)
    del group


cdef int waiting_task(void* context) except -1 nogil:
    return (<TaskGroup>context).wait()


def wait_inside(int n_jobs):
    cdef TaskGroup group = TaskGroup(n_jobs)
    group.spawn(waiting_task, <void*>group)
    group.wait()


cdef int order_task(void* context) except -1 nogil:
    with gil:
        raise ValueError(<object>context)


def fail_tasks(names, int n_jobs):
    """Tasks that fail with the names in the order they are spawned."""
    cdef TaskGroup group = TaskGroup(n_jobs)
    for name in names:
        group.spawn(order_task, <void*>name)
    group.wait()


cdef int grouped_body(void* context, Py_ssize_t begin, Py_ssize_t end) except -1 nogil:
    """A loop whose items have groups of their own."""
    cdef Py_ssize_t i
    for _ in range(begin, end):
        with gil:
            if run_group(50, 2, 100) != 50:
                raise AssertionError("not all tasks ran")
        test_add(<int64_t*>context, 1)
    return 0


def groups_in_loop(Py_ssize_t n, int n_jobs):
    cdef int64_t total = 0
    parallel_for(grouped_body, &total, n, 1, n_jobs)
    return total
