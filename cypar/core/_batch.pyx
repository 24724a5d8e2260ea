"""What the parent remembers of a sent batch, and the way of its results back.

Thread safety: one owner, the thread that runs the call.
"""

from _pickle import loads

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint64_t

from cypar.core._port cimport port_load64, port_store64
from cypar.core._status_page cimport Record, StatusPage, record_at, record_bytes
from cypar.core._task_queue cimport Outcomes

cdef enum:
    NONE = 0
    TRUE = 1
    FALSE = 2
    INT = 3
    FLOAT = 4
    PICKLE = 5
    ERROR = 6
    SKIP = 7


cdef class Batch:
    """One batch of tasks until the last one is done.

    Attributes
    ----------
    tasks : list
        (index, captured task) by position; None once the task is done or taken back.
    left : int
        Tasks that are neither done nor taken back.
    n : int
        Tasks that were not taken back.
    seconds : float
        Time its finished tasks ran.
    """

    cdef readonly list tasks
    cdef readonly Py_ssize_t left, n
    cdef readonly double seconds

    def __init__(self, list tasks):
        self.tasks = tasks
        self.n = self.left = len(tasks)

    def take_back(self, Py_ssize_t first, Py_ssize_t end):
        """Take the tasks at positions ``first`` to ``end`` out of the batch."""
        taken = self.tasks[first:end]
        self.tasks[first:end] = [None] * (end - first)
        self.left -= end - first
        self.n -= end - first
        return taken

    cpdef Py_ssize_t done(self, Py_ssize_t position, double seconds) except -1:
        """Note that a task is done; returns its index."""
        cdef tuple task
        if not 0 <= position < len(self.tasks):
            raise IndexError(f"a worker reports position {position} of {self.n} tasks")
        task = <tuple?>self.tasks[position]
        self.tasks[position] = None
        self.left -= 1
        self.seconds += seconds
        return task[0]


def read_results(StatusPage page, list batches, Outcomes outcomes, decode_error):
    """Take all new records of the result log and give their tasks their outcomes.

    Parameters
    ----------
    page : StatusPage
    batches : list of Batch or None
        By slot; a batch whose last task is done is replaced by None.
    outcomes : Outcomes
    decode_error : callable
        (index, bytes) -> exception.

    Returns
    -------
    list of Batch
        Those whose last task is done.
    """
    cdef uint64_t begin = page.page.log_begin[0]
    cdef uint64_t end = port_load64(&page.page.log_end[0])
    cdef Record* record
    cdef Batch batch
    cdef list finished = []
    cdef Py_ssize_t index
    cdef int kind, slot
    cdef object value
    outcomes.hold()
    try:
        while begin < end:
            record = record_at(page, begin)
            begin += record_bytes(record.size)
            kind = record.kind
            if kind != SKIP:
                slot = record.slot
                batch = <Batch?>batches[slot]
                index = batch.done(record.position, record.seconds)
                if batch.left == 0:
                    batches[slot] = None
                    finished.append(batch)
                value = decoded(kind, <char*>record + sizeof(Record), record.size)
                # The record has been copied: the worker may use its room again.
                port_store64(&page.page.log_begin[0], begin)
                give(outcomes, index, kind, value, decode_error)
            else:
                port_store64(&page.page.log_begin[0], begin)
            if begin >= end:
                end = port_load64(&page.page.log_end[0])
    finally:
        outcomes.let_go()
    return finished


cdef object decoded(int kind, const char* data, Py_ssize_t size):
    if kind == INT:
        return (<int64_t*>data)[0]
    if kind == FLOAT:
        return (<double*>data)[0]
    if kind == NONE:
        return None
    if kind == TRUE:
        return True
    if kind == FALSE:
        return False
    return PyBytes_FromStringAndSize(data, size)


cpdef Py_ssize_t size_of(value) except -1:
    """Bytes of what a worker sent: of a pickle, or of a pickle and large buffers."""
    cdef Py_ssize_t size
    if type(value) is not tuple:
        return len(value)
    size = len(value[0])
    for buffer in value[1]:
        size += len(buffer)
    return size


cpdef give(Outcomes outcomes, Py_ssize_t index, int kind, value, decode_error):
    """Give one task its outcome from what the worker sent."""
    cdef Py_ssize_t size = 32
    if kind == ERROR:
        outcomes.put_error(index, decode_error(index, value))
        return
    if kind == PICKLE:
        size = size_of(value)
        buffers = ()
        if type(value) is tuple:
            value, buffers = value
        try:
            value = loads(value, buffers=buffers)
        except BaseException as exc:
            outcomes.put_error(index, exc)
            return
    outcomes.put(index, value, size)
