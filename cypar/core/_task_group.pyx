"""Task groups: native tasks that are spawned one by one, and waited for together.

::

    spawn:   put the task into the ring -> ask a waiting helper, if there is one
             ring full: run it at once, in the spawning thread
    helper:  join -> run tasks until the ring is empty, and a little longer -> leave
    wait:    the owner runs tasks too; when none is left it waits for running ones

The ring is the bounded queue of D. Vyukov: a cell's ``turn`` equals the position that
may be put into it next, one more while the task is in it, and a whole ring more once
it was taken. Any thread puts and takes without a lock.

Guarantees:

- `spawn` never blocks; memory is bounded.
- The owner waits for running tasks only, never for a helper that has not begun.
- Of several failures the first spawned counts; tasks that have not begun then never do.

Thread safety: tasks of the group may spawn into it from their own threads. Waiting is
the owner's, and so is spawning otherwise.
"""

from cpython.exc cimport PyErr_SetString, PyErr_WriteUnraisable
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from cypar.core._port cimport (
    port_add32, port_add64, port_attach, port_cas32, port_cas64, port_detach,
    port_exception_place, port_fence, port_load32, port_load64, port_monotonic_ns,
    port_park, port_pause, port_spin_step, port_store32, port_store64, port_unpark,
)
from cypar.core._helper_threads cimport SPIN_NS
from cypar.core._region cimport (
    Worker, close_region, enter, fail, get_helpers, here_cancelled,
    is_cancelled, leave, max_workers, open_region, recruit_again, tend, worker_in,
)

cdef int64_t LINGER_NS = 10_000     # how long a helper waits for the next task
cdef int64_t SLICE_NS = 50_000_000  # longest sleep of the owner

ctypedef int (*plain_task)(void* context) noexcept nogil


cdef Group* new_group(int n_jobs) noexcept nogil:
    """A group, or NULL if there is no memory for it."""
    cdef Group* group = <Group*>calloc(1, sizeof(Group))
    cdef uint64_t i
    if group != NULL:
        group.n_jobs = n_jobs
        for i in range(<uint64_t>RING):
            group.ring[i].turn = i
    return group


cdef void free_group(Group* group) noexcept nogil:
    """Drop the tasks that have not begun, wait for the others, free the group."""
    if group != NULL and group.is_open:
        port_store32(&group.region.cancelled, 1)
        if finish(group) == -1:
            with gil:
                PyErr_WriteUnraisable(None)  # nobody waits for this failure
    free(group)


# ---- the ring -------------------------------------------------------------------


cdef bint put(Group* group, void* body, void* context, uint64_t order) noexcept nogil:
    """Put a task into the ring; False if it is full."""
    cdef uint64_t at = port_load64(&group.tail), turn
    cdef Cell* cell
    while True:
        cell = &group.ring[at % RING]
        turn = port_load64(&cell.turn)
        if turn == at:
            if port_cas64(&group.tail, at, at + 1):
                break
        elif turn < at:
            return False
        at = port_load64(&group.tail)
    cell.body = body
    cell.context = context
    cell.order = order
    port_store64(&cell.turn, at + 1)
    return True


cdef bint take(Group* group, Cell* task) noexcept nogil:
    """Take the oldest task out of the ring; False if it is empty."""
    cdef uint64_t at = port_load64(&group.head), turn
    cdef Cell* cell
    while True:
        cell = &group.ring[at % RING]
        turn = port_load64(&cell.turn)
        if turn == at + 1:
            if port_cas64(&group.head, at, at + 1):
                break
        elif turn < at + 1:
            return False
        at = port_load64(&group.head)
    task[0] = cell[0]
    port_store64(&cell.turn, at + RING)
    return True


# ---- tasks ----------------------------------------------------------------------


cdef int spawn_task(Group* group, task_body body, void* context) noexcept nogil:
    """Add a task. Never fails: what goes wrong is seen by `wait_for_tasks`."""
    cdef Cell task
    if not group.is_open:
        open_group(group)
    cdef uint64_t order = port_add64(&group.spawned, 1)
    port_add64(&group.left, 1)
    if put(group, <void*>body, context, order):
        port_fence()  # the task is in the ring before we look whether the owner sleeps
        if port_load32(&group.sleeps):
            announce(group)
        ask_helpers(group)
        return 0
    task.body = <void*>body
    task.context = context
    task.order = order
    run_here(group, &task)
    return 0


cdef void open_group(Group* group) noexcept nogil:
    cdef uint32_t i
    open_region(&group.region, join, max_workers(group.n_jobs))
    # The group may outlive the region that its owner is in now, see `finish`.
    group.region.outer = NULL
    group.asked = group.inside = 0
    for i in range(<uint32_t>MAX_WORKERS):
        group.slots[i] = i == 0
    group.is_open = True
    get_helpers(&group.region)


cdef void ask_helpers(Group* group) noexcept nogil:
    """Have one more helper join if more tasks wait than helpers are on their way."""
    cdef uint32_t asked = port_load32(&group.asked)
    cdef uint32_t coming = asked - port_load32(&group.inside)
    cdef uint64_t waiting = port_load64(&group.tail) - port_load64(&group.head)
    if <int>asked + 1 >= group.region.limit or <int64_t>waiting <= <int64_t>coming:
        return
    if port_cas32(&group.recruiting, 0, 1):
        # counted before it can leave again
        port_add32(&group.asked, 1)
        if not recruit_again(&group.region):
            port_add32(&group.asked, <uint32_t>-1)
        port_store32(&group.recruiting, 0)


cdef void announce(Group* group) noexcept nogil:
    port_add32(&group.event, 1)
    port_unpark(&group.event, 1 << 30)


cdef void run_task(Group* group, Cell* task) noexcept nogil:
    """Run a task that was taken, or drop it if the group is cancelled."""
    cdef int status
    if not is_cancelled(&group.region):
        status = (<plain_task>task.body)(task.context)
        # one whose declaration does not admit to an exception may have set one, too
        if status == -1 or port_exception_place()[0] != NULL:
            fail(&group.region, <Py_ssize_t>task.order, b"a task of a group")
    if port_add64(&group.left, <uint64_t>-1) == 1:
        port_fence()
        if port_load32(&group.sleeps):
            announce(group)


cdef void run_here(Group* group, Cell* task) noexcept nogil:
    """Run a task in the thread that spawns it, which may hold the GIL."""
    cdef Worker me
    cdef Worker* here = worker_in(&group.region)
    cdef void* state = port_detach()
    enter(&group.region, &me)
    if here != NULL:
        me.slot = here.slot
    run_task(group, task)
    leave(&me)
    port_attach(state)


cdef void join(void* region) noexcept nogil:
    """What a helper does in the group."""
    cdef Group* group = <Group*>region
    cdef Worker me
    cdef Cell task
    cdef int64_t until = 0
    enter(&group.region, &me)
    me.slot = take_slot(group)
    port_add32(&group.inside, 1)
    while True:
        if take(group, &task):
            ask_helpers(group)
            run_task(group, &task)
            until = 0
        elif until == 0:
            until = port_monotonic_ns() + LINGER_NS
        elif port_monotonic_ns() >= until:
            break
        else:
            port_pause()
    port_store32(&group.slots[me.slot], 0)
    port_add32(&group.inside, <uint32_t>-1)
    port_add32(&group.asked, <uint32_t>-1)
    leave(&me)


cdef int take_slot(Group* group) noexcept nogil:
    """A slot that no other worker has; there is one for each helper inside."""
    cdef int i = 1
    while not port_cas32(&group.slots[i], 0, 1):
        i = i + 1 if i + 1 < group.region.limit else 1
    return i


# ---- the owner's wait --------------------------------------------------------------


cdef int wait_for_tasks(Group* group) noexcept nogil:
    """Run and wait for all tasks: 0, or -1 with a Python exception set."""
    if not group.is_open:
        return 0
    if worker_in(&group.region) != NULL:
        with gil:
            PyErr_SetString(
                RuntimeError,
                "a task of a group cannot wait for its own group, for it would wait "
                "for itself: make another group inside the task",
            )
        return -1
    return finish(group)


cdef int finish(Group* group) noexcept nogil:
    cdef Worker me
    cdef Cell task
    cdef int result
    cdef bint outer_cancelled = False
    group.region.detached = port_detach()
    while port_load64(&group.left) != 0:
        if not outer_cancelled and here_cancelled():
            outer_cancelled = True
            fail(&group.region, 0, b"")
        if take(group, &task):
            ask_helpers(group)
            enter(&group.region, &me)
            run_task(group, &task)
            leave(&me)
        else:
            wait_for_event(group)
        tend(&group.region, port_monotonic_ns(), False)
    while not port_cas32(&group.recruiting, 0, 1):
        port_spin_step()  # another thread is asking helpers
    result = close_region(&group.region)
    group.is_open = False
    port_store32(&group.recruiting, 0)
    return result


cdef void wait_for_event(Group* group) noexcept nogil:
    """Wait until there is a task, or the last one has ended: at most a slice."""
    cdef uint32_t seen = port_load32(&group.event)
    cdef int64_t until = port_monotonic_ns() + SPIN_NS
    while port_monotonic_ns() < until:
        if not is_idle(group):
            return
        port_spin_step()
    port_store32(&group.sleeps, 1)
    port_fence()  # either we see what others have done, or they see that we sleep
    if is_idle(group):
        port_park(&group.event, seen, SLICE_NS)
    port_store32(&group.sleeps, 0)


cdef bint is_idle(Group* group) noexcept nogil:
    """Whether tasks run but none waits."""
    cdef uint64_t at = port_load64(&group.head)
    return (
        port_load64(&group.left) != 0
        and port_load64(&group.ring[at % RING].turn) != at + 1
    )
