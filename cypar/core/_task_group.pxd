"""A bounded queue of native tasks that the owner and helper threads run."""

from libc.stdint cimport uint32_t, uint64_t

from cypar.core._region cimport MAX_WORKERS, Region

# Returns 0, or -1 with an exception set.
ctypedef int (*task_body)(void* context) except -1 nogil

cdef enum:
    RING = 1024             # tasks that can wait; more are run by the one who spawns

cdef struct Cell:
    uint64_t turn           # whose turn the cell is; see _task_group.pyx
    uint64_t order          # how many tasks were spawned before
    void* body
    void* context

cdef struct Group:
    Region region           # first, so that a Region* is a Group*
    bint is_open            # something was spawned since the last wait
    int n_jobs
    uint32_t recruiting     # 1: a thread is asking helpers, or the group closes
    uint32_t asked          # helpers that were asked and have not left again
    uint32_t inside         # helpers that have joined
    uint32_t event          # grows when tasks come or the last one ends
    uint32_t sleeps         # the owner waits for the event
    uint32_t slots[MAX_WORKERS]   # 1: a worker has this slot
    char pad_1[64]
    uint64_t spawned        # tasks ever spawned
    uint64_t left           # tasks that have not ended
    char pad_2[64]
    uint64_t head           # where the next task is taken
    char pad_3[64]
    uint64_t tail           # where the next task is put
    char pad_4[64]
    Cell ring[RING]

cdef Group* new_group(int n_jobs) noexcept nogil
cdef void free_group(Group* group) noexcept nogil
cdef int spawn_task(Group* group, task_body body, void* context) noexcept nogil
cdef int wait_for_tasks(Group* group) noexcept nogil
