"""Serialise each task at the moment it is drawn.

What a task sees is its arguments as of dispatch: a generator that refills one buffer
or edits one dict between two yields gives the new values. Deeply immutable arguments
need no pickle at the draw; their tuples are kept and pickled as one column when the
batch is sent.

A captured task is a pair: ``(function reference, argument tuple)`` when the arguments
are immutable, or ``(function reference, bytes)``.

Thread safety: used by the one thread that draws for a call.
"""

import pickle
import struct

from cypar.core._plain cimport is_immutable

cdef object _plain_dumps = pickle.dumps
cdef object _entry = struct.Struct("<IQ")


cdef class Capture:
    """Callable that turns (index, task) into a captured task.

    Parameters
    ----------
    encode_function : callable
        function -> reference with attributes ``blob`` and ``mutable``.
    dumps : callable
        object -> bytes.
    explain : callable
        (index, function, args, kwargs, error) -> the exception to raise.
    """

    cdef object encode_function, dumps, explain

    def __init__(self, encode_function, dumps, explain):
        self.encode_function = encode_function
        self.dumps = dumps
        self.explain = explain

    def __call__(self, Py_ssize_t index, tuple task):
        cdef object function = task[0]
        cdef tuple args = <tuple>task[1]
        cdef dict kwargs = <dict>task[2]
        try:
            reference = self.encode_function(function)
            if len(kwargs) == 0 and is_immutable(args):
                return (reference, args)
            return (reference, self.dumps((args, kwargs)))
        except Exception as exc:
            error = exc
        raise self.explain(index, function, args, kwargs, error) from error


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
            data = _plain_dumps((data, {}), 5)
        head.append(_entry.pack(function_id(captured[0]), len(data)))
        parts.append(data)
    parts.insert(0, b"".join(head))
    return parts
