"""Serialise each task at the moment it is drawn.

What a task sees is its arguments as of dispatch: a generator that refills one buffer
or edits one dict between two yields gives the new values. Deeply immutable arguments
need no pickle at the draw; their tuples are kept and pickled as one column when the
batch is sent.

A captured task is a pair: ``(function reference, argument tuple)`` when the arguments
are immutable, or ``(function reference, bytes)``.

Thread safety: used by the one thread that draws for a call.
"""

import struct
from _pickle import dumps as _c_dumps

from cypar.core._plain cimport is_immutable
from cypar.core._watch cimport Watch

from cypar.transport import settings

cdef object _entry = struct.Struct("<IQ")
cdef dict _settings = vars(settings)


cdef class Capture:
    """Callable that turns (index, task) into a captured task.

    Parameters
    ----------
    table : FunctionTable
    dumps : callable
        object -> bytes.
    explain : callable
        (index, function, args, kwargs, error) -> the exception to raise.
    """

    cdef object table, dumps, explain
    # The last function, and what holds while it has not changed: most calls have one.
    cdef object function, reference, generation
    cdef Watch watch

    def __init__(self, table, dumps, explain):
        self.table = table
        self.dumps = dumps
        self.explain = explain

    def __call__(self, Py_ssize_t index, tuple task):
        cdef tuple args = <tuple>task[1]
        cdef dict kwargs = <dict>task[2]
        cdef object function = task[0]
        try:
            reference = self.encode(function)
            if len(kwargs) == 0 and is_immutable(args):
                return (reference, args)
            return (reference, self.dumps((args, kwargs)))
        except Exception as exc:
            error = exc
        raise self.explain(index, function, args, kwargs, error) from error

    cdef object encode(self, object function):
        if (
            self.watch is not None
            and function is self.function
            and self.watch.holds(function)
            and self.generation is _settings["generation"]
        ):
            return self.reference
        self.watch = None
        self.reference = self.table.encode(function)
        self.watch = self.table.watch_of(function, self.reference)
        self.function = function
        self.generation = _settings["generation"]
        return self.reference


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


def table_of(list tasks, function_id):
    """The parts of a TASKS message: a table of (function id, size), then pickles."""
    cdef list head = [], parts = []
    cdef tuple entry, captured
    for entry in tasks:
        captured = <tuple>entry[1]
        data = captured[1]
        if type(data) is tuple:
            data = _c_dumps((data, {}), 5)
        head.append(_entry.pack(function_id(captured[0]), len(data)))
        parts.append(data)
    parts.insert(0, b"".join(head))
    return parts
