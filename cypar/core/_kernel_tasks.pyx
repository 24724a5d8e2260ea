"""Kernels as tasks of the thread backend.

A task ``(kernel, args, {})`` is packed when it is drawn: its arguments are checked and
turned into C numbers, its buffers are held. A worker then takes several packed tasks
at once, runs them in one stretch without the GIL, and boxes their results.

Thread safety: GIL, but for the stretch; a packed task belongs to the FIFO, then to the
worker that took it.
"""

cimport cython

from cpython.object cimport Py_TYPE, PyTypeObject
from cpython.ref cimport Py_DECREF, PyObject
from libc.stdint cimport int64_t, uint32_t

from cypar.core._helper_threads cimport Parker
from cypar.core._native_call cimport Native, NativeKernel, check, has_failed
from cypar.core._packing cimport Frame, Slot, box, release
from cypar.core._port cimport (
    port_exception_place, port_load32, port_monotonic_ns,
)
from cypar.core._task_queue cimport Call, Outcomes, TaskSource, kernel_hooks

cdef enum:
    MAX_CHUNK = 128     # tasks that one worker takes: more live tuples cost collections

cdef int64_t CHUNK_NS = 100_000   # giving the GIL away and back costs well below 1 %
cdef int64_t SLOW_NS = 2_000_000  # a chunk that lasts longer: kernels have become slow
cdef Py_ssize_t GROWTH = 4        # of chunks


@cython.final
@cython.no_gc  # what it refers to never refers to it
@cython.freelist(256)
cdef class PackedCall:
    """One call of a kernel with its arguments as C numbers."""

    cdef Frame frame
    cdef NativeKernel kernel
    cdef tuple task         # as it was drawn; keeps the arguments alive

    def __dealloc__(self):
        release(&self.frame)


# A task that a worker has taken.
cdef struct Item:
    PyObject* task                  # an owned PackedCall
    Py_ssize_t index
    const Native* native
    const Slot* slots
    Slot result

cdef struct Chunk:
    int n
    Item[MAX_CHUNK] items


cdef object pack_task(tuple task):
    """Pack a task whose function is a kernel."""
    cdef NativeKernel kernel = <NativeKernel>task[0]
    cdef PackedCall packed
    if len(<dict>task[2]) != 0:
        raise kernel.no_keywords(<dict>task[2])
    packed = PackedCall.__new__(PackedCall)
    packed.kernel = kernel
    kernel.fill(<tuple>task[1], &packed.frame)
    packed.task = task
    return packed


cdef int run_packed(
    Call call, Parker me, Py_ssize_t index, PyObject* first
) except -1:
    """Run a packed task and those after it, and store their outcomes."""
    cdef Chunk chunk
    cdef int i
    cdef int64_t began = port_monotonic_ns(), native_ns
    chunk.n = 0
    add(&chunk, index, first)
    try:
        take_more(call, &chunk)
        if call.kernels_pay and call.source.pending:
            call.wake_one()
        native_ns = run_chunk(call, me, &chunk)
    finally:
        for i in range(chunk.n):
            Py_DECREF(<object>chunk.items[i].task)
    observe(call, chunk.n, port_monotonic_ns() - began, native_ns)
    return 0


cdef inline void add(Chunk* chunk, Py_ssize_t index, PyObject* task) noexcept:
    cdef Item* item = &chunk.items[chunk.n]
    item.task = task
    item.index = index
    item.native = &(<PackedCall>task).kernel.native
    item.slots = (<PackedCall>task).frame.slots
    chunk.n += 1


cdef int take_more(Call call, Chunk* chunk) except -1:
    """Take more packed tasks from the FIFO, as many as a chunk should have."""
    cdef TaskSource source = call.source
    cdef Py_ssize_t index = 0
    cdef PyObject* task
    cdef PyObject* function = NULL
    if call.kernel_chunk == 0:
        call.kernel_chunk = max(1, <Py_ssize_t>call.options.batch_size)
    if call.outcomes.hook is not None or call.options.timeout_s is not None:
        return 0  # one task at a time is reported, or timed
    while chunk.n < min(call.kernel_chunk, MAX_CHUNK):
        waiting = source.peek()
        if (waiting == NULL
                or Py_TYPE(<object>waiting.payload) != kernel_hooks.packed_type):
            break
        task = source.pop(&index, &function)  # a packed one has none
        if task == NULL:
            break
        add(chunk, index, task)
    return 0


cdef int64_t run_chunk(Call call, Parker me, Chunk* chunk) except -1:
    """Run a chunk; returns how long it was without the GIL, in ns."""
    cdef int begin = 0, end
    cdef int64_t native_ns = 0, now
    cdef object exc
    cdef Item* last
    if call.options.timeout_s is not None:
        call.timed[chunk.items[0].index] = (<PackedCall>chunk.items[0].task).task
        me.started_ns = port_monotonic_ns()
        me.task_index = chunk.items[0].index
    while begin < chunk.n and call.stop_state == 0:
        with nogil:  # GIL OUT: kernels are made for that
            now = port_monotonic_ns()
            end = run_calls(chunk, begin, <uint32_t*>&call.stop_state)
            now = port_monotonic_ns() - now
        native_ns += now
        me.task_index = -1
        last = &chunk.items[end - 1]
        exc = None
        # an exception that is set must be taken before any other Python code runs
        if has_failed(last.native, &last.result, port_exception_place()):
            exc = failure(call, <PackedCall>last.task, last)
        put_results(call.outcomes, chunk, begin, end if exc is None else end - 1)
        if exc is not None:
            call.outcomes.put_error(last.index, exc)
        begin = end
        if now > SLOW_NS and call.source.pending:
            call.wake_one()
    if call.options.timeout_s is not None:
        call.timed.pop(chunk.items[0].index, None)
    return native_ns


cdef int run_calls(Chunk* chunk, int begin, const uint32_t* stop) noexcept nogil:
    """Call from position ``begin`` on until one has failed; returns the end.

    It also returns when the calls have become so long that others should know.
    """
    cdef int64_t late = port_monotonic_ns() + SLOW_NS
    cdef PyObject* const* exception = port_exception_place()
    cdef Item* item
    cdef int i, look_at = begin
    for i in range(begin, chunk.n):
        item = &chunk.items[i]
        item.native.call(item.native.function, item.slots, &item.result)
        if has_failed(item.native, &item.result, exception) or port_load32(stop):
            return i + 1
        if i == look_at:  # the 1st, 2nd, 4th, 8th ...: a clock costs as much as a call
            look_at = begin + 2 * (i - begin) + 1
            if port_monotonic_ns() > late:
                return i + 1
    return chunk.n


cdef object failure(Call call, PackedCall packed, Item* item):
    """The exception of a call that has failed."""
    try:
        check(packed.kernel, &item.result, -1)
    except BaseException as exc:
        return exc if call.explain is None else call.explain(exc, packed.task)
    return None


cdef int put_results(Outcomes outcomes, Chunk* chunk, int begin, int end) except -1:
    cdef int i
    cdef Item* item
    for i in range(begin, end):
        item = &chunk.items[i]
        outcomes.put(item.index, box(item.native.result, &item.result), -1)
    return 0


cdef int observe(Call call, int n, int64_t all_ns, int64_t native_ns) except -1:
    """Learn how many tasks make a chunk, and whether a second worker pays."""
    cdef Py_ssize_t size
    # Boxing and drawing are one worker's at a time, whatever the number of workers.
    call.kernels_pay = 3 * native_ns >= all_ns
    if call.options.batch_size or call.wants_single_tasks():
        return 0  # the caller has chosen, or wants to see single tasks first
    size = max(<Py_ssize_t>(CHUNK_NS * n // max(all_ns, <int64_t>1)), <Py_ssize_t>1)
    size = min(min(size, GROWTH * call.kernel_chunk), <Py_ssize_t>MAX_CHUNK)
    if size != call.kernel_chunk:
        call.kernel_chunk = size
        call.source.stop_pacing()  # chunks decide now how much is drawn ahead
        call.source.set_batch_size(size)
    return 0


cdef int register(object kernel_type) except -1:
    """Have the thread backend treat calls of this type so."""
    kernel_hooks.kernel_type = <PyTypeObject*>kernel_type
    kernel_hooks.packed_type = <PyTypeObject*>PackedCall
    kernel_hooks.pack = pack_task
    kernel_hooks.run = run_packed
    return 0
