"""What a worker makes of an exception that a task raised; needed only after a failure.

Errors of tasks that write to memory which is mapped read-only are explained: the same
task works with smaller arrays, and the message of NumPy or Cython names no argument.
"""

from __future__ import annotations

from types import FunctionType, MethodType

from cypar.core.traceback_text import add_note
from cypar.transport.arrays import loaded_numpy
from cypar.transport.culprit import name_arguments
from cypar.transport.exceptions import clear_frames, encode_exception
from cypar.transport.mappings import is_ours
from cypar.transport.memmap import backing_of

MAX_DEPTH = 3  # containers and objects that are looked into
MAX_PARTS = 100  # of one of them
_SIZES = ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB"))


def encode_failure(exc, function, args, kwargs):
    """Return what the parent's `decode_exception` takes; never raise."""
    try:
        explain_read_only(exc, function, args, kwargs)
    except BaseException:
        pass  # user code in __getattr__ and the like: the error stays as it is
    data = encode_exception(exc, function, args, kwargs)
    clear_frames(exc)  # their variables keep arguments, and thereby segments
    return data


def explain_read_only(exc, function, args, kwargs):
    """Say which argument is read-only and what to do, if that is what failed."""
    if not isinstance(exc, (ValueError, TypeError, BufferError)):
        return
    text = str(exc)
    if "read-only" not in text and "readonly" not in text:
        return
    found = _largest_read_only(function, args, kwargs)
    if found is None:
        return
    place, nbytes = found
    hint = (
        f"{place} has {_size(nbytes)}, which is more than max_nbytes, so workers "
        "map it read-only. Parallel(mmap_mode='c') gives each task a private copy of "
        "what it writes to; mmap_mode=None or max_nbytes=None maps nothing"
    )
    if type(exc) in (ValueError, TypeError) and exc.args == (text,):
        exc.args = (f"{text}: {hint}",)
    else:
        add_note(exc, hint)


def _largest_read_only(function, args, kwargs):
    """Return (place, bytes) of the largest mapped read-only array, or None."""
    numpy = loaded_numpy()
    if numpy is None:
        return None
    found = []
    for place, value in _places(function, args, kwargs):
        for array in _arrays_in(numpy, value, MAX_DEPTH):
            backing = backing_of(array)
            if backing is not None and backing.mode == "r" and is_ours(backing.base):
                found.append((backing.nbytes, place))
    if not found:
        return None
    nbytes, place = max(found, key=lambda pair: pair[0])
    return place, nbytes


def _places(function, args, kwargs):
    """Yield (name, value) of what the task could write to."""
    for name, value in name_arguments(function, args):
        yield f"argument {name}", value
    for name, value in kwargs.items():
        yield f"argument {name!r}", value
    if isinstance(function, MethodType):
        yield "the object that the method belongs to", function.__self__
        function = function.__func__
    if isinstance(function, FunctionType):
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            yield f"captured variable {name!r}", cell.cell_contents


def _arrays_in(numpy, value, depth):
    if isinstance(value, numpy.ndarray):
        yield value
        return
    if depth == 0:
        return
    if isinstance(value, dict):
        parts = list(value.values())[:MAX_PARTS]
    elif isinstance(value, (list, tuple)):
        parts = value[:MAX_PARTS]
    elif hasattr(value, "_mgr"):  # a DataFrame or a Series of pandas
        parts = [block.values for block in value._mgr.blocks]
    else:
        parts = list(getattr(value, "__dict__", {}).values())[:MAX_PARTS]
    for part in parts:
        yield from _arrays_in(numpy, part, depth - 1)


def _size(nbytes):
    for unit, name in _SIZES:
        if nbytes >= unit:
            return f"{nbytes / unit:.1f} {name}"
    return f"{nbytes} bytes"
