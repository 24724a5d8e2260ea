"""Serialise each task at the moment it is drawn.

What a task sees is its arguments as of dispatch: a generator that refills one buffer
or edits one dict between two yields gives the new values. Deeply immutable arguments
need no pickle at the draw; their tuples are kept and pickled as one column when the
batch is sent.

A captured task is a pair: ``(function reference, argument tuple)`` when the arguments
are immutable, or ``(function reference, bytes or Patch)``; a third item is the
`Parcel` of its large buffers, if it has any.

Thread safety: used by the one thread that draws for a call.
"""

from _pickle import dumps as _c_dumps

from cpython.object cimport PyObject

from cypar.core._plain cimport is_immutable
from cypar.core._port cimport PyObject_GC_UnTrack
from cypar.core._watch cimport Watch

from cypar.core._parcel import Parcel
from cypar.transport import settings, sharing
from cypar.transport.deltas import MIN_BYTES as _MIN_BYTES, Deltas, Patch, Repeats
from cypar.transport.functions import PackedRef
from cypar.transport.memory import RAW_BYTES as _RAW
from cypar.transport.pieces import DELTA as _DELTA, PACKED as _PACKED, TASK


cdef object _pack_task = TASK.pack
cdef dict _settings = vars(settings)
cdef object _Patch = Patch
cdef object _PackedRef = PackedRef
cdef dict _shared = sharing.shared  # id -> Shared; mostly empty
cdef Py_ssize_t _MIN_DELTA = _MIN_BYTES
cdef Py_ssize_t _RAW_BYTES = _RAW


cdef class Capture:
    """Callable that turns (index, task) into a captured task.

    Parameters
    ----------
    table : FunctionTable
    dumps : callable
        object -> bytes; not used with `memory`.
    explain : callable
        (index, function, args, kwargs, error) -> the exception to raise.
    memory : CallMemory, optional
        Pickles instead, large buffers aside.
    """

    cdef object table, dumps, explain, memory, deltas, repeats
    # The last function, and what holds while it has not changed: most calls have one.
    cdef object function, reference, generation
    cdef Watch watch

    def __init__(self, table, dumps, explain, memory=None):
        self.table = table
        self.dumps = dumps
        self.explain = explain
        self.memory = memory

    def __call__(self, Py_ssize_t index, tuple task):
        cdef tuple args = <tuple>task[1]
        cdef dict kwargs = <dict>task[2]
        cdef object function = task[0]
        try:
            reference = self.encode(function)
            if self.memory is None:
                if len(kwargs) == 0 and is_immutable(args):
                    return untracked(reference, args)
                return (reference, self.dumps((args, kwargs)))
            return self.with_memory(reference, function, args, kwargs)
        except Exception as exc:
            error = exc
        raise self.explain(index, function, args, kwargs, error) from error

    cdef tuple with_memory(self, reference, function, tuple args, dict kwargs):
        """Capture a task whose large buffers go to shared memory."""
        if _shared:
            args, kwargs = sharing.replace(args, kwargs)
        if reference.packed:
            data, parcel = self.memory.dumps(
                (function, self.memory.wrap(args), kwargs)
            )
        elif len(kwargs) == 0 and is_immutable(args, _RAW_BYTES):
            return untracked(reference, args)
        else:
            if self.repeats is not None:
                replaced = self.repeats.replace(args, kwargs)
                if replaced is not None:
                    args, kwargs, base = replaced
                    parcel = Parcel()
                    parcel.shares.append(base)
                    return (reference, _c_dumps((args, kwargs), 5), parcel)
            data, parcel = self.memory.dumps_task(args, kwargs)
        if len(data) >= _MIN_DELTA:
            if self.deltas is None:
                self.deltas = Deltas()
                self.repeats = Repeats()
            self.repeats.note(args, kwargs, len(data))
            if self.memory.makes_patches:
                data = self.deltas.encode(data)
        return (reference, data) if parcel is None else (reference, data, parcel)

    cdef object encode(self, object function):
        if (
            self.watch is not None
            and function is self.function
            and self.watch.holds(function)
            and self.generation is _settings["generation"]
        ):
            return self.reference
        self.watch = None
        if self.memory is None:
            self.reference = self.table.encode(function)
        else:
            self.reference = self.table.encode(function, self.memory)
        self.watch = self.table.watch_of(function, self.reference)
        self.function = function
        self.generation = _settings["generation"]
        return self.reference


cdef tuple untracked(object reference, tuple args):
    """The pair of the two, out of sight of the garbage collector.

    It looks at thousands of waiting tasks again and again, which is an eighth of what
    they cost. Immutable arguments are in no cycle, and the pair dies with the call.
    """
    cdef tuple captured = (reference, args)
    PyObject_GC_UnTrack(<PyObject*>args)
    PyObject_GC_UnTrack(<PyObject*>captured)
    return captured


def columns_of(list tasks):
    """The argument tuples of a batch, if it can travel as columns, else None.

    Parameters
    ----------
    tasks : list of (index, captured task)
    """
    cdef list columns = []
    cdef tuple entry, captured
    cdef object reference = (<tuple>(<tuple>tasks[0])[1])[0]
    if reference.mutable:
        return None  # every task needs a fresh copy of the function
    for entry in tasks:
        captured = <tuple>entry[1]
        if captured[0] is not reference or type(captured[1]) is not tuple:
            return None
        columns.append(captured[1])
    return columns


def table_of(list tasks, function_id, outbox=None):
    """The parts of a TASKS message.

    A table of the tasks, a table of the pieces of all of them, then the pickles, then
    the pieces that have no segment.

    Parameters
    ----------
    tasks : list of (index, captured task)
    function_id : callable
        reference -> number that the worker knows the function by.
    outbox : Outbox, optional
        Sends what the message refers to: segments, bytes that patches are made on.
        Not needed for tasks that were captured without a memory.
    """
    cdef list head = [], pieces = [], parts = [], tail = []
    cdef tuple entry, captured
    cdef Py_ssize_t n_pieces
    for entry in tasks:
        captured = <tuple>entry[1]
        reference = captured[0]
        data = captured[1]
        flags = 0
        n_pieces = 0
        if type(data) is tuple:
            data = _c_dumps((data, {}), 5)
        elif type(data) is _Patch:
            data = outbox.patch(data)
            flags = _DELTA
        if len(captured) == 3:
            n_pieces = outbox.put(captured[2], pieces, tail)
        number = 0
        if type(reference) is _PackedRef:
            flags |= _PACKED
            reference = reference.guard
        if reference is not None:
            number = function_id(reference)
        head.append(_pack_task(number, n_pieces, flags, len(data)))
        parts.append(data)
    return [b"".join(head + pieces), *parts, *tail]
