"""The way of one task through a call.

::

    iterable -> TaskSource (one FIFO) -> a worker -> Outcomes -> list or generator
                     ^                                  |
                     +------- one more per outcome -----+

Guarantees:

- The user's iterator is advanced by one thread at a time, in the contextvars of
  the caller, whichever thread draws.
- Tasks that are drawn but not finished never exceed the window, which is
  ``pre_dispatch`` batches of the current size.
- In generator modes, results that are finished and not read are bounded: nothing
  is started that could exceed the bound.
- Every task gets exactly one outcome; a late or second one is dropped and counted.

Thread safety: every method runs under the GIL and completes its state change
without releasing it, except where user code runs (the iterator, the hook); the
``drawing`` flag and the outcome lock cover these. Waits are native, on a word.
"""

from collections import deque
from heapq import heappop, heappush

from _thread import RLock

from cpython.contextvars cimport PyContext_Enter, PyContext_Exit
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport Py_TYPE
from cpython.ref cimport PyObject, Py_XDECREF
from libc.stdint cimport int64_t, uint32_t

from cypar.core._helper_threads cimport SPIN_NS, Parker
from cypar.core._port cimport (
    Py_REFCNT, PyObject_GC_UnTrack, port_add32, port_load32, port_monotonic_ns,
    port_park, port_spin_step, port_store32, port_unpark,
)
from cypar.core._task_fifo cimport Waiting

from cypar.core.errors import TaskError, label


class _Marker:
    """A constant that prints its own name."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return self.name


LATER = _Marker("LATER")  # nothing to draw now; on_wake tells when to ask again
END = _Marker("END")      # nothing to draw any more
cdef object _LATER = LATER, _END = END
cdef object _UNSET = _Marker("<no outcome>")
cdef object _SKIP = _Marker("<failed when drawn>")
cdef object _NOTHING = _Marker("<exhausted>")

cpdef enum:
    LIST = 0
    ORDERED = 1
    UNORDERED = 2

cdef enum:
    RUNNING = 0
    DRAIN = 1   # draw nothing more, finish what is started
    ABORT = 2   # outcomes no longer matter

cdef Py_ssize_t UNLIMITED = <Py_ssize_t>1 << 62
cdef Py_ssize_t ERROR_BYTES = 1000  # that an unread TaskError counts for
cdef int64_t SLICE_NS = 50_000_000  # longest wait between two looks for signals


def as_task(item):
    """Check one item of the input; returns the plain task tuple."""
    try:
        function, args, kwargs = item
        task = (function, tuple(args), dict(kwargs))
    except (TypeError, ValueError):
        function = None
    if not callable(function):
        raise TypeError(
            f"Parallel got {item!r:.200} of type {type(item).__name__} as a task, "
            "expected (function, args, kwargs): write delayed(function)(arguments)"
        )
    return task


cdef KernelHooks kernel_hooks
cdef UfuncHooks ufunc_hooks


cdef inline bint is_kernel(tuple task) noexcept:
    return Py_TYPE(<object>task[0]) == kernel_hooks.kernel_type


cdef class TaskSource(TaskFifo):
    """The user's iterator behind a FIFO of bounded size."""

    def __init__(self, Call call, iterator, pre_dispatch, batch_size, context):
        self.call = call
        self.iterator = iterator
        self.draw_context = context
        self.returned = []
        self.pre_dispatch = pre_dispatch
        self.low = UNLIMITED
        self.set_batch_size(max(1, batch_size))

    def set_batch_size(self, Py_ssize_t size):
        """Count the window in batches of ``size`` tasks from now on."""
        if self.pre_dispatch == 0:
            self.window = UNLIMITED
        else:
            self.window = self.pre_dispatch * size

    cdef bint has_room(self) noexcept:
        cdef Outcomes outcomes = self.call.outcomes
        if self.ended or self.call.stop_state != RUNNING:
            return False
        if self.drawn - outcomes.finished >= self.window:
            return False
        return self.window == UNLIMITED or self.may_start()

    cdef bint may_start(self) noexcept:
        """Whether one more result would still fit into the consumer's buffer."""
        cdef Outcomes outcomes = self.call.outcomes
        if outcomes.mode == LIST:
            return True
        if (
            self.drawn - self.pending - outcomes.delivered < outcomes.max_unread
            and outcomes.unread_bytes < outcomes.max_unread_bytes
        ):
            return True
        outcomes.starved = True
        return False

    cdef PyObject* pop(self, Py_ssize_t* index, PyObject** function) noexcept:
        """The oldest task (the caller owns the references), or NULL.

        ``function`` becomes NULL unless the task was taken apart; see `append`.
        """
        cdef Waiting task
        while self.pending and self.may_start():
            index[0] = self.drawn - self.pending
            task = self.shift()
            if task.payload != <PyObject*>_SKIP:
                function[0] = task.function
                return task.payload
            Py_XDECREF(task.payload)
        return NULL

    cdef int append(self, tuple task) except -1:
        """Put a task into the FIFO, whole, or its arguments and its function.

        In parts with ``takes_apart``, if there are no keywords. The thread that draws
        then frees the rest, which it has in its cache; to the one that runs the task,
        each object is one more wait for memory, with the GIL.
        """
        cdef PyObject* args
        if not self.takes_apart or len(<dict>task[2]) != 0:
            self.push(task, NULL)
            return 0
        args = <PyObject*>task[1]
        if Py_REFCNT(args) == 1 and Py_REFCNT(<PyObject*>task) == 1:
            PyObject_GC_UnTrack(args)  # nobody else's: no cycle goes through it
        self.push(<tuple>args, <PyObject*>task[0])
        return 0

    cdef int advance(self) except -1:
        """Draw one task into the FIFO. The caller holds the ``drawing`` flag."""
        cdef Py_ssize_t index
        cdef object item
        try:
            item = next(self.iterator, _NOTHING)
            if item is _NOTHING:
                self.ended = True
                self.iterator = None
                return 0
            if not (type(item) is tuple and len(<tuple>item) == 3
                    and type((<tuple>item)[1]) is tuple
                    and type((<tuple>item)[2]) is dict):
                item = as_task(item)
        except BaseException as exc:
            self.call.fail(exc)
            return 0
        index = self.drawn
        if self.capture is not None or (self.packs_kernels and is_kernel(item)):
            try:
                if self.capture is None:
                    self.push(kernel_hooks.pack(item), NULL)
                else:
                    self.push(self.capture(index, item), NULL)
            except BaseException as exc:
                if not isinstance(exc, Exception):  # Ctrl-C, not the task's failure
                    self.call.fail(exc)
                    return 0
                # counted as a task that failed before it was sent; the FIFO holds
                # the last drawn tasks without a gap, so something takes its place
                self.push(_SKIP, NULL)
                self.drawn += 1
                self.call.outcomes.drew(index)
                self.call.outcomes.fail_unsent(
                    index, exc, item, self.capture is not None
                )
                return 1
        else:
            self.append(<tuple>item)  # no other reference: its count is looked at
        self.drawn += 1
        self.call.outcomes.drew(index)
        return 1

    cdef int refill(self, Py_ssize_t enough) except -1:
        """Draw while there is room, until ``enough`` tasks wait in the FIFO."""
        if self.drawing or self.ended or not self.has_room():
            return 0
        self.drawing = True
        # always in the same context: what the iterator sets, it sees at the next draw
        PyContext_Enter(self.draw_context)
        try:
            while self.pending < enough and self.has_room():
                self.advance()
        finally:
            PyContext_Exit(self.draw_context)
            self.drawing = False
        if self.ended:
            self.iterator = None
            self.call.outcomes.settle()
            self.call.wake()
        return 0

    cdef int draw_ahead(self) except -1:
        """Draw as thread workers do: one more per outcome, or in bursts."""
        cdef Outcomes outcomes = self.call.outcomes
        cdef Py_ssize_t drawn = self.drawn
        cdef int64_t begin
        cdef DrawPace pace = self.pace  # another worker may stop it during a draw
        if self.drawing or self.ended:
            return 0
        if pace is None or not pace.is_due(outcomes.finished):
            return self.refill(UNLIMITED)
        begin = port_monotonic_ns()
        self.set_batch_size(pace.update(outcomes.finished, begin))
        self.low = self.window // 4 if pace.size > 1 else UNLIMITED
        self.refill(UNLIMITED)
        pace.drew(self.drawn - drawn, port_monotonic_ns() - begin)
        return 0

    cdef void stop_pacing(self) noexcept:
        """Draw one more per outcome from now on; somebody else sets the window."""
        self.pace = None
        self.low = UNLIMITED

    def fill(self):
        """Draw until the window is full, the input ends, or the call stops."""
        self.refill(UNLIMITED)

    def draw(self, Py_ssize_t k):
        """Take up to ``k`` tasks: a list of (index, payload), `LATER` or `END`."""
        cdef list tasks = []
        cdef tuple task
        cdef Py_ssize_t index = 0
        cdef PyObject* payload
        cdef PyObject* function = NULL
        while self.returned and len(tasks) < k:
            tasks.append(heappop(self.returned))
        if self.pending < k - len(tasks):
            self.refill(k - len(tasks))
        if self.call.stop_state == ABORT:
            return _END
        while len(tasks) < k:
            payload = self.pop(&index, &function)
            if payload == NULL:
                break
            task = (index, <object>payload)
            Py_XDECREF(payload)
            if self.capture is not None:  # as the captured task itself, see there
                PyObject_GC_UnTrack(<PyObject*>task)
            tasks.append(task)
        if tasks:
            return tasks
        if self.ended and self.pending == 0:
            return _END
        return _LATER

    def close(self):
        """Drop the iterator and all pending tasks; see `Call.close`."""
        self.ended = True
        if not self.drawing:  # else the thread that draws still needs them
            self.iterator = None
            self.capture = None
        self.returned.clear()
        self.clear()

    def has_task(self):
        """Whether `draw` would give a task without asking the iterator."""
        return len(self.returned) > 0 or (self.pending > 0 and self.may_start())

    def give_back(self, tasks):
        """Make tasks pending again that were drawn and not started."""
        for task in tasks:
            heappush(self.returned, task)
        self.call.wake()


cdef Py_ssize_t _size_of(object value) noexcept:
    """About how many bytes an unread result holds."""
    kind = type(value)
    if kind is bytes or kind is str or kind is bytearray:
        return len(value)
    if kind is int or kind is float or value is None or kind is bool:
        return 32
    try:
        return value.nbytes
    except BaseException:
        return 64


cdef class Outcomes:
    """Results and errors of one call; decides order, buffer and stop."""

    def __init__(self, Call call, mode, max_unread, max_unread_bytes):
        self.call = call
        self.mode = mode
        self.results = []
        self.unread = {}
        self.queue = deque()
        self.open = set()
        self.errors = {}
        self.lost = {}
        self.max_unread = max_unread
        self.max_unread_bytes = max_unread_bytes

    cdef void drew(self, Py_ssize_t index):
        if self.mode == LIST:
            self.results.append(_UNSET)
        elif self.mode == UNORDERED:
            self.open.add(index)

    cdef bint store(self, Py_ssize_t index, object value, Py_ssize_t size) except -1:
        """Keep one result; False if the task already has an outcome."""
        if len(self.errors) != 0 and index in self.errors:
            return False
        if self.mode == LIST:
            if index >= len(self.results):  # the results were taken: it comes late
                return False
            if (<object>self.results[index]) is not _UNSET:
                return False
            self.results[index] = value
            return True
        if size < 0:
            size = _size_of(value)
        if self.mode == ORDERED:
            if index < self.delivered or index in self.unread:
                return False
            self.unread[index] = (index, value, size)
        else:
            if index not in self.open:
                return False
            self.open.discard(index)
            self.queue.append((index, value, size))
        self.unread_bytes += size
        return True

    cpdef put(self, Py_ssize_t index, object value, Py_ssize_t size=-1):
        """Give task ``index`` its result. Callable from any thread."""
        if self.hook is None:
            if self.call.over or not self.store(index, value, size):
                self.dropped += 1
                return
            self.finished += 1
            if self.mode != LIST:
                self.notify()
            if self.call.source.ended:
                self.settle()
            return
        with self.lock:
            if self.call.over or not self.store(index, value, size):
                self.dropped += 1
                return
            self.finished += 1
            self.run_hook()
            self.call.source.refill(UNLIMITED)
            self.notify()
            self.settle()

    def put_error(
        self, Py_ssize_t index, exc, kind="exception", function=None, arguments=None,
    ):
        """Give task ``index`` an error. From any thread.

        It stops the call, or is a result: as the option ``on_error`` says.

        Parameters
        ----------
        exc : BaseException
        kind : {'exception', 'crash', 'timeout', 'pickling'}
        function, arguments : str, optional
            What the exception does not know yet of its task.
        """
        label(exc, index, function, arguments)
        if self.call.options.on_error == "return":
            if function is None:
                function = getattr(exc, "task_function", None)
                arguments = getattr(exc, "task_arguments", None)
            attempts = 0 if kind == "pickling" else 1 + self.lost.get(index, 0)
            error = TaskError(index, kind, exc, function, arguments, attempts)
            self.put(index, error, ERROR_BYTES)
            return
        with self.lock:
            if self.call.over or index in self.errors or not self._open_still(index):
                self.dropped += 1
                return
            self.errors[index] = exc
            self.finished += 1
        self.call.stop("abort")

    def fail_unsent(self, Py_ssize_t index, exc, task, bint pickling):
        """Give task ``index`` an error that came when it was made ready."""
        # needed only after a failure, and slow to import
        from cypar.core.traceback_text import describe_task

        kind = "pickling" if pickling else "exception"
        self.put_error(index, exc, kind, *describe_task(*task))

    def _open_still(self, Py_ssize_t index):
        if self.mode == LIST:
            return index < len(self.results) and self.results[index] is _UNSET
        if self.mode == ORDERED:
            return index >= self.delivered and index not in self.unread
        return index in self.open

    def run_hook(self):
        """Call the progress hook; what it raises fails the call."""
        try:
            self.hook()
        except BaseException as exc:
            self.call.fail(exc)

    def first_error(self):
        """The error of the lowest index among those known now, or None."""
        if not self.errors:
            return None
        return self.errors[min(self.errors)]

    def take_error(self):
        """Return `first_error` and forget all errors, so that no cycle keeps them."""
        error = self.first_error()
        self.errors = {}
        return error

    def take_results(self):
        """Return the list of results and forget it."""
        results, self.results = self.results, []
        return results

    def completed(self):
        """Results that are finished and not taken yet, as {index: value}."""
        if self.mode == LIST:
            return {
                i: value for i, value in enumerate(self.results) if value is not _UNSET
            }
        entries = self.unread.values() if self.mode == ORDERED else self.queue
        return {index: value for index, value, _ in entries}

    # ---- waiting -------------------------------------------------------------

    cdef int settle(self) except -1:
        """Mark the call done once every drawn task has its outcome."""
        if (not self.done and self.call.source.ended
                and self.finished >= self.call.source.drawn):
            self.done = True
            self.notify()
            self.call.wake()
        return 0

    cdef void hold(self) noexcept:
        """Put off waking the consumer until `let_go`: one wake for many results."""
        self.held = True

    cdef void let_go(self) noexcept:
        self.held = False
        if self.missed:
            self.missed = False
            self.notify()

    cdef void notify(self) noexcept:
        if self.held:
            self.missed = True
            return
        port_add32(&self.changes, 1)
        if self.waiting:
            port_unpark(&self.changes, 1 << 30)

    cdef int wait_change(self, uint32_t seen, int64_t timeout_ns) except -1:
        """Wait until ``changes`` differs from ``seen``; at most one slice."""
        cdef int status = 0
        if timeout_ns < 0 or timeout_ns > SLICE_NS:
            timeout_ns = SLICE_NS
        self.waiting += 1
        with nogil:  # GIL OUT: waits for worker threads
            status = port_park(&self.changes, seen, timeout_ns)
        self.waiting -= 1
        if status != 0:
            PyErr_CheckSignals()
        return status

    cdef int spin_change(self, uint32_t seen) except -1:
        """Spin briefly for a change: most small calls are over by then."""
        cdef int64_t until
        if SPIN_NS == 0:
            return 0
        with nogil:  # GIL OUT: waits for worker threads
            until = port_monotonic_ns() + SPIN_NS
            while port_load32(&self.changes) == seen and port_monotonic_ns() < until:
                port_spin_step()
        return 0

    def wait(self, timeout_s=None):
        """Wait until the call is done or stopped; False after ``timeout_s``.

        A pending signal (Ctrl-C) raises within 50 ms.
        """
        cdef uint32_t seen
        cdef int64_t deadline = -1, left = -1
        cdef bint fresh = True
        if timeout_s is not None:
            deadline = port_monotonic_ns() + <int64_t>(timeout_s * 1e9)
        while True:
            seen = port_load32(&self.changes)
            if self.done or self.call.stop_state != RUNNING:
                return True
            if deadline >= 0:
                left = deadline - port_monotonic_ns()
                if left <= 0:
                    return False
            if fresh:
                fresh = False
                self.spin_change(seen)
                self.call.open_gate()
            else:
                self.wait_change(seen, left)

    def take(self):
        """The next result for a generator's consumer; waits for it.

        Raises
        ------
        StopIteration
            When every result has been taken, or the call stopped: the caller then
            looks at `first_error`.
        """
        cdef uint32_t seen
        cdef object entry
        while True:
            seen = port_load32(&self.changes)
            if self.mode == ORDERED:
                entry = self.unread.pop(self.delivered, None)
            else:
                entry = self.queue.popleft() if self.queue else None
            if entry is not None:
                self.delivered_one(entry[2])
                return entry[1]
            if self.done or self.call.over:
                raise StopIteration
            self.wait_change(seen, -1)

    cdef int delivered_one(self, Py_ssize_t size) except -1:
        self.delivered += 1
        self.unread_bytes -= size
        if self.starved and (
            self.call.source.drawn - self.call.source.pending - self.delivered
            <= self.max_unread * 3 // 4
            and self.unread_bytes <= self.max_unread_bytes * 3 // 4
        ):
            # a quarter of the buffer at a time: fewer wake-ups than one per result
            self.starved = False
            self.call.wake()
        return 0


cdef class Call:
    """One run of a parallel loop: what a backend works on and nothing more.

    Parameters
    ----------
    options : CallOptions
    iterator : iterator of (function, args, kwargs)
    mode : {LIST, ORDERED, UNORDERED}
    context : contextvars.Context
        Copy of the caller's context; the iterator is advanced in it.
    max_unread, max_unread_bytes : int
        Bounds on finished results that the consumer of a generator has not read.
    """

    def __init__(
        self, options, iterator, mode, context,
        max_unread=1000, max_unread_bytes=64 << 20,
    ):
        self.options = options
        self.n_jobs = options.n_jobs
        self.wakers = []
        self.sleeping = []
        self.members = []
        self.late = []
        self.timed = {}
        self.outcomes = Outcomes(self, mode, max_unread, max_unread_bytes)
        self.outcomes.lock = RLock()
        self.kernels_pay = True
        self.source = TaskSource(
            self, iterator, options.pre_dispatch, options.batch_size, context
        )

    @property
    def stopping(self):
        """None, 'drain' or 'abort'."""
        return (None, "drain", "abort")[self.stop_state]

    def stop(self, how="abort"):
        """Stop drawing; with 'abort', outcomes no longer matter."""
        # atomic: kernels look at it without the GIL
        port_store32(
            <uint32_t*>&self.stop_state,
            max(self.stop_state, ABORT if how == "abort" else DRAIN),
        )
        self.outcomes.notify()
        self.wake()

    cpdef bint wants_single_tasks(self):
        """Whether batches must not grow yet: who has set pre_dispatch looks on."""
        options = self.options
        return (
            options.explicit_pre_dispatch
            and self.outcomes.finished < 4 * options.pre_dispatch
        )

    def fail(self, exc):
        """End the input with an error: the iterator or the progress hook raised."""
        self.source.ended = True
        self.outcomes.errors.setdefault(self.source.drawn, exc)
        self.stop("abort")

    def finish(self):
        """Note that the backend is through: what comes later is dropped."""
        self.over = True
        self.outcomes.notify()

    def close(self):
        """Let go of what the call holds, once it is over.

        A call, its source and its outcomes refer to each other, so they live until
        the next garbage collection: they must keep nothing of the user's alive.
        """
        self.over = True
        self.recruit = None
        self.explain = None
        self.task_context = None
        self.timed.clear()
        self.wakers.clear()
        self.outcomes.hook = None
        self.source.close()
        self.outcomes.unread.clear()
        self.outcomes.queue.clear()

    def on_wake(self, function):
        """Call ``function()`` on room, on stop and on end of input; never blocks."""
        self.wakers.append(function)

    def off_wake(self, function):
        """Undo `on_wake`."""
        if function in self.wakers:
            self.wakers.remove(function)

    def wake(self):
        """Let everybody who waits for tasks look again."""
        cdef Parker parker
        while self.sleeping:
            parker = self.sleeping.pop()
            parker.unpark()
        for function in list(self.wakers):
            function()

    cdef int wake_one(self) except -1:
        """Get one more worker thread to look for a task, if one is due."""
        cdef Parker parker
        cdef int64_t now
        if self.sleeping:
            parker = self.sleeping.pop()
            parker.unpark()
        elif self.recruit is not None and self.joined < self.n_jobs:
            if self.joined and not self.gate_open:
                # The first worker may sit on the caller's processor: it would not come
                # to open the gate for milliseconds. Counted from that worker's first
                # look: to start its thread takes longer than a spin.
                now = port_monotonic_ns()
                if self.begun_ns == 0:
                    self.begun_ns = now
                if now - self.begun_ns < SPIN_NS:
                    return 0
                self.gate_open = True
            self.joined += 1
            try:
                self.recruit()
            except RuntimeError:  # no thread can be started, as at the end
                self.joined -= 1
                if self.joined == 0:
                    raise
                self.recruit = None  # the call goes on with the workers it has
        return 0

    def open_gate(self):
        """Let more than one worker thread join.

        A call of a few tiny tasks is over before a second thread has woken up. And
        while the caller spins it occupies a processor, so that a second thread would
        be put beside the first; measured, that cost up to 20 % of a 60 ms loop.
        """
        if self.gate_open:
            return
        self.gate_open = True  # where it does not pay now, a worker may find it does
        if self.source.pending and not self.stop_state and self.kernels_pay:
            self.wake_one()

    def start_worker(self):
        """Ask one worker thread to join, or to look for a task again."""
        self.wake_one()

    def time_left(self, double timeout_s):
        """Seconds until the first running task is overdue, at most ``timeout_s``."""
        cdef Parker parker
        cdef int64_t now = port_monotonic_ns()
        cdef double left = timeout_s
        for parker in self.members:
            if parker.task_index >= 0:
                left = min(left, timeout_s - (now - parker.started_ns) * 1e-9)
        return left

    def overdue(self, double timeout_s):
        """Index of a task that has run for longer than ``timeout_s``, or None."""
        cdef Parker parker
        cdef int64_t now = port_monotonic_ns()
        for parker in self.members:
            if parker.task_index >= 0 and now - parker.started_ns > timeout_s * 1e9:
                return parker.task_index
        return None

    def give_up(self, Py_ssize_t index):
        """Let another thread take the place of the one that runs task ``index``.

        A thread cannot be stopped: it leaves the call when its task returns.

        Returns
        -------
        tuple
            The task: (function, args, kwargs).
        """
        cdef Parker parker
        for parker in self.members:
            if parker.task_index == index:
                parker.task_index = -1
                self.late.append(parker)
                self.joined -= 1
                break
        return self.timed.pop(index, None)

    cpdef bint has_open_tasks(self):
        """Whether a task waits for a worker, or was given to one and has not ended."""
        return self.source.has_task() or (
            self.source.drawn - self.source.pending > self.outcomes.finished
        )

    def is_stalled(self):
        """Whether tasks are open that nobody runs, draws or waits to run.

        True for a moment now and then; if it stays so, something is wrong.
        """
        cdef TaskSource source = self.source
        if self.stop_state != RUNNING or self.over or source.drawing:
            return False
        if len(self.sleeping) + len(self.late) < len(self.members):
            return False
        return self.has_open_tasks()
