"""Turn objects into bytes that a worker process can load, and back.

Three picklers, cheapest first:
1. plain data (core/_plain): the C pickler alone, 0.3 us;
2. what can be imported by a worker: a C pickler that checks each function and class;
3. anything else: the same with cloudpickle (by_value.py), imported at its first use.

`dumps` is for the way to a worker, `dumps_result` for the way back; `loads` reads both.

Thread safety: GIL; every call has a pickler of its own.
"""

from __future__ import annotations

# pickle itself imports re and _compat_pickle: 5 ms more in every worker
from _pickle import Pickler, PicklingError, loads
from _pickle import dumps as _c_dumps
from io import BytesIO
from types import FunctionType, MethodType

from cypar.core._plain import is_plain
from cypar.core.late_import import late_import
from cypar.transport import settings
from cypar.transport.importable import refresh, travels_by_reference
from cypar.transport.settings import (
    get_pickler_name,
    register_reducer,
    set_pickler,
)

__all__ = [
    "PicklingError",
    "dumps",
    "dumps_anything",
    "dumps_by_name",
    "dumps_result",
    "dumps_result_with_memory",
    "dumps_with_memory",
    "export_settings",
    "get_pickler_name",
    "import_settings",
    "loads",
    "probe",
    "register_reducer",
    "set_pickler",
]

_by_value_pickler = None  # by_value.ByValuePickler once it was needed


def dumps(obj, buffer_callback=None):
    """Pickle an object for a worker process, with protocol 5.

    Parameters
    ----------
    obj : object
        Functions, classes and modules that a worker could not import (those of
        ``__main__``, lambdas, closures, modules loaded from elsewhere) are sent by
        value, everything else of that kind by name.
    buffer_callback : callable, optional
        As for `pickle.dumps`: receives large buffers instead of the bytes.

    Returns
    -------
    bytes

    Raises
    ------
    Exception
        Whatever the object's own ``__reduce__`` raises; `pickle.PicklingError` or
        TypeError for objects that cannot be pickled.

    Examples
    --------
    >>> loads(dumps(lambda x: x + 1))(2)
    3
    """
    if settings.plain_shortcut and is_plain(obj):
        return _c_dumps(obj, 5, buffer_callback=buffer_callback)
    return _dump(obj, buffer_callback)


def dumps_result(obj, buffer_callback=None):
    """Pickle a result in a worker for its parent process.

    Classes that came from the parent by value go back as a reference, so that the
    parent gets instances of its own class. Otherwise the same as `dumps`.
    """
    if settings.plain_shortcut and is_plain(obj):
        return _c_dumps(obj, 5, buffer_callback=buffer_callback)
    return _dump(obj, buffer_callback, upward=True)


def dumps_with_memory(obj, memory):
    """Pickle like `dumps`, large buffers aside.

    Parameters
    ----------
    memory : object
        ``reduce(obj)`` is asked about arrays, masked arrays, memoryviews and its own
        wrappers; ``take_buffer`` gets every protocol-5 buffer; ``restart()`` means
        that the pickling begins anew.
    """
    return _dump(obj, memory.take_buffer, memory=memory)


def dumps_by_name(obj, memory):
    """Pickle like the standard library: functions and classes by name."""
    sink = BytesIO()
    pickler = _ReducersPickler(sink, 5, buffer_callback=memory.take_buffer)
    pickler.memory = memory
    pickler.dump(obj)
    return sink.getvalue()


def dumps_result_with_memory(obj, memory):
    """Pickle like `dumps_result`, large buffers aside."""
    return _dump(obj, memory.take_buffer, upward=True, memory=memory)


def probe(obj):
    """Return the exception that `dumps` raises for an object, or None.

    The bytes are thrown away as they come, so large objects cost no memory.
    """
    try:
        _dump(obj, sink=_Discard())
    except Exception as error:
        return error
    return None


def dumps_anything(obj):
    """Pickle as `dumps` does by default, whatever pickler the user chose."""
    return _dump(obj, ignore_choice=True)


def export_settings():
    """Return the chosen pickler and the registered reducers as bytes for a worker."""
    return dumps_anything((get_pickler_name(), dict(settings.reducers)))


def import_settings(data):
    """Use the settings that another process exported."""
    settings.replace(*loads(data))


# ---- the pickler without cloudpickle -----------------------------------------------


class _NeedsByValue(Exception):
    """Something must travel by value, so cloudpickle is needed."""


class _ImportablePickler(Pickler):
    """The C pickler, refusing what a worker could not import."""

    memory = None

    def reducer_override(self, obj):
        kind = type(obj)
        reducer = settings.reducers.get(kind)
        if reducer is not None:
            return reducer(obj)
        if self.memory is not None:
            reduced = self.memory.reduce(obj)
            if reduced is not NotImplemented:
                return reduced
        if kind is FunctionType or issubclass(kind, type):
            if travels_by_reference(obj):
                return NotImplemented
            if kind is type and obj.__module__ == "builtins":
                return NotImplemented  # type(None) and the like
            raise _NeedsByValue
        if kind is MethodType:
            return reduce_method(obj)
        return NotImplemented


def reduce_method(method):
    """Reduce a bound method to its parts.

    The standard way, getattr(self, name), fails for names like __private.
    """
    return bind_method, (method.__func__, method.__self__)


def bind_method(function, owner):
    """Make a bound method; called by `loads`."""
    return MethodType(function, owner)


class _ReducersPickler(Pickler):
    """The C pickler with the user's reducers: the choice 'pickle'."""

    memory = None

    def reducer_override(self, obj):
        reducer = settings.reducers.get(type(obj))
        if reducer is not None:
            return reducer(obj)
        return NotImplemented if self.memory is None else self.memory.reduce(obj)


class _Discard:
    """A file that forgets what is written to it."""

    def write(self, data):
        return memoryview(data).nbytes  # large buffers come as PickleBuffer


# ---- choosing the pickler ----------------------------------------------------------


def _dump(
    obj,
    buffer_callback=None,
    upward=False,
    sink=None,
    ignore_choice=False,
    memory=None,
):
    """Pickle what is not plain, into ``sink`` or else into the bytes returned."""
    refresh()
    give_back = sink is None
    if give_back:
        sink = BytesIO()
    try:
        if get_pickler_name() != settings.DEFAULT_PICKLER and not ignore_choice:
            _dump_chosen(obj, sink, buffer_callback, memory)
        elif not _light(sink, obj, buffer_callback, memory):
            pickler = _load_by_value()(sink, buffer_callback, upward)
            pickler.memory = memory
            pickler.dump(obj)
    except RecursionError as error:
        raise PicklingError(
            "the object is nested too deeply to be pickled; raise "
            "sys.setrecursionlimit or send a flatter structure"
        ) from error
    return sink.getvalue() if give_back else None


def _light(sink, obj, buffer_callback=None, memory=None):
    """Try without cloudpickle; return False, with nothing written, if it is needed.

    Any failure counts: cloudpickle knows more types. Reducers may then run twice,
    once in the life of a process.
    """
    if _by_value_pickler is not None:
        return False
    buffers = []
    callback = None if buffer_callback is None else buffers.append
    own_sink = BytesIO()
    pickler = _ImportablePickler(
        own_sink, 5, buffer_callback=callback if memory is None else buffer_callback
    )
    pickler.memory = memory
    try:
        pickler.dump(obj)
    except Exception:
        if memory is not None:
            memory.restart()
        return False
    sink.write(own_sink.getbuffer())
    for buffer in buffers:
        buffer_callback(buffer)
    return True


def _load_by_value():
    global _by_value_pickler
    if _by_value_pickler is None:
        # costs 25 ms (cloudpickle), and most programs need it never or once
        _by_value_pickler = late_import("cypar.transport.by_value", "ByValuePickler")
    return _by_value_pickler


def _dump_chosen(obj, sink, buffer_callback, memory):
    """Pickle with the module that the user chose."""
    name = get_pickler_name()
    if name == "pickle":
        pickler = _ReducersPickler(sink, 5, buffer_callback=buffer_callback)
        pickler.memory = memory
        pickler.dump(obj)
        return
    module = settings.check_pickler(name)
    base = getattr(module, "Pickler", None)
    if base is None:
        sink.write(module.dumps(obj))
    else:
        _custom_pickler(base, sink, buffer_callback, memory).dump(obj)


_customised: dict[type, type] = {}


def _custom_pickler(base, sink, buffer_callback, memory):
    kind = _with_reducers(base)
    if memory is None:
        return kind(sink, 5)
    try:
        pickler = kind(sink, 5, buffer_callback=buffer_callback)
    except TypeError:  # it knows no buffers: all of them stay in the pickle
        return kind(sink, 5)
    pickler.memory = memory
    return pickler


def _with_reducers(base):
    """Return a subclass of another module's Pickler that asks our reducers first."""
    made = _customised.get(base)
    if made is None:
        ask_base = getattr(base, "reducer_override", None)

        class CustomPickler(base):
            memory = None

            def reducer_override(self, obj):
                reducer = settings.reducers.get(type(obj))
                if reducer is not None:
                    return reducer(obj)
                if self.memory is not None:
                    reduced = self.memory.reduce(obj)
                    if reduced is not NotImplemented:
                        return reduced
                return NotImplemented if ask_base is None else ask_base(self, obj)

        made = _customised[base] = CustomPickler
    return made
