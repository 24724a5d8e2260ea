"""Pickle functions, classes and modules that a worker could not import.

cloudpickle does the work; this module decides what travels by value (importable.py)
and adds what cloudpickle lacks. It is imported only when something needs it.

Guarantees:
- A class that a worker got from its parent goes back as its tracker id, so that the
  parent sees its own class again and nothing overwrites the methods of that class.
  (cloudpickle sends the class by value, whose loading replaces the parent's methods
  by copies with globals of their own.)
- Loading a class again brings it to the state it had when it was pickled: attributes
  that were set, changed or removed meanwhile follow the parent.

Thread safety: GIL.
"""

from __future__ import annotations

import copyreg
import functools
import os
from _pickle import Pickler
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TypeVar
from weakref import WeakKeyDictionary

from cloudpickle import cloudpickle as cp

from cypar.transport import settings
from cypar.transport.importable import travels_by_reference, worker_can_import
from cypar.transport.serialize import reduce_method

# Classes that came from the parent: class -> (tracker id, names of its attributes)
_from_parent: WeakKeyDictionary = WeakKeyDictionary()
# Classes sent to workers, oldest first, so that they exist when an instance returns.
_sent: dict[str, type] = {}
MAX_SENT = 1024  # 1 kB or so each; a call that still needs older ones holds them

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: not a class in static C memory
_LruCache = type(functools.lru_cache(lambda: None))


class ByValuePickler(cp.Pickler):
    """The C pickler with cloudpickle's reducers and cypar's choice of by value.

    Parameters
    ----------
    upward : bool
        True in a worker that pickles for its parent.
    """

    # The plain dict is looked up in C; cloudpickle's ChainMap costs 1 us an object.
    dispatch_table = copyreg.dispatch_table
    dump = Pickler.dump  # cloudpickle's own hides a RecursionError

    def __init__(self, file, buffer_callback=None, upward=False):
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        self.upward = upward
        self.memory = None  # as in serialize.dumps_with_memory

    def reducer_override(self, obj):
        kind = type(obj)
        reducer = settings.reducers.get(kind)
        if reducer is not None:
            return reducer(obj)
        if self.memory is not None:
            reduced = self.memory.reduce(obj)
            if reduced is not NotImplemented:
                return reduced
        if kind is FunctionType:
            if travels_by_reference(obj):
                return NotImplemented
            return self._dynamic_function_reduce(obj)
        if issubclass(kind, type):
            return self._reduce_class(obj)
        if issubclass(kind, ModuleType):
            return _reduce_module(obj)
        reducer = _REDUCERS.get(kind)
        return NotImplemented if reducer is None else reducer(obj)

    def _reduce_class(self, cls):
        if travels_by_reference(cls):
            return NotImplemented
        if self.upward:
            known = _from_parent.get(cls)
            if known is not None:
                return _own_class, (known[0], cls.__qualname__)
        reduced = cp._class_reduce(cls)  # knows names for types such as FunctionType
        if reduced is NotImplemented:  # in sys.modules, but no worker could import it
            if not cls.__flags__ & _HEAP_TYPE:
                return NotImplemented
            reduced = cp._dynamic_class_reduce(cls)
        elif len(reduced) == 2:
            return reduced
        elif not cls.__flags__ & _HEAP_TYPE:
            return NotImplemented  # a nameless C type: the C pickler says so
        maker, arguments, state, _, _, set_state = reduced
        if self.upward:
            return maker, arguments, state, None, None, set_state
        _keep_sent(cls)
        return _build_class, (maker, arguments), state, None, None, _set_class_state


def _keep_sent(cls):
    tracker_id = cp._get_or_create_tracker_id(cls)
    _sent.pop(tracker_id, None)
    _sent[tracker_id] = cls
    if len(_sent) > MAX_SENT:
        _sent.pop(next(iter(_sent)), None)


# ---- called by pickle.loads --------------------------------------------------------


def _build_class(maker, arguments):
    """Make the class, or find it if it came before, and note where it is from."""
    cls = maker(*arguments)
    if cls not in _from_parent:
        tracker_id = cp._get_or_create_tracker_id(cls)
        if tracker_id not in _sent:  # else it was made here: leave it alone
            _from_parent[cls] = (tracker_id, frozenset())
    return cls


def _set_class_state(cls, state):
    known = _from_parent.get(cls)
    if known is None:
        return
    tracker_id, old_names = known
    names = frozenset(state[0])
    for name in old_names - names:
        if name in vars(cls):
            delattr(cls, name)
    cp._class_setstate(cls, state)
    _from_parent[cls] = (tracker_id, names)


def _own_class(tracker_id, qualname):
    """Return the class that this process sent under that id."""
    cls = cp._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracker_id)
    if cls is None:
        raise LookupError(
            f"an instance of the class {qualname} came back from a worker, but the "
            "class exists no more in this process; keep a reference to it"
        )
    return cls


def _build_lru_cache(function, maxsize, typed, attributes):
    cached = functools.lru_cache(maxsize, typed)(function)
    vars(cached).update(attributes)
    return cached


# ---- reducers for types that are no functions or classes ---------------------------


def _reduce_module(module):
    if worker_can_import(module.__name__):
        return cp.subimport, (module.__name__,)
    state = vars(module).copy()
    # some libraries put unpicklable objects into it; loading makes a fresh one
    state.pop("__builtins__", None)
    # a spec and a loader describe a file that the worker will not read
    state.pop("__spec__", None)
    state.pop("__loader__", None)
    return cp.dynamic_subimport, (module.__name__, state)


def _reduce_lru_cache(cached):
    """Send a cached function of ``__main__`` with an empty cache."""
    if travels_by_reference(cached):
        return NotImplemented
    parameters = cached.cache_parameters()
    attributes = {k: v for k, v in vars(cached).items() if k != "__wrapped__"}
    arguments = (parameters["maxsize"], parameters["typed"], attributes)
    return _build_lru_cache, (cached.__wrapped__, *arguments)


def _reduce_code(code):
    """Keep the file's name, which tracebacks need to show the source.

    cloudpickle 3.1.3 and later put '<dynamic-code>' in its place.
    """
    maker, arguments = cp._code_reduce(code)[:2]
    return maker, tuple(
        code.co_filename if type(part) is str and part == "<dynamic-code>" else part
        for part in arguments
    )


def _reduce_typevar(variable):
    name = variable.__module__
    if isinstance(name, str) and worker_can_import(name):
        return cp._typevar_reduce(variable)
    return cp._make_typevar, cp._decompose_typevar(variable)


_REDUCERS = {
    **cp.Pickler._dispatch_table,
    CodeType: _reduce_code,
    MethodType: reduce_method,
    TypeVar: _reduce_typevar,
    _LruCache: _reduce_lru_cache,
}


def _after_fork():
    """A forked child's inherited classes are its parent's own."""
    _sent.clear()
    for cls, tracker_id in list(cp._DYNAMIC_CLASS_TRACKER_BY_CLASS.items()):
        if isinstance(cls, type):
            _from_parent.setdefault(cls, (tracker_id, frozenset()))


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_after_fork)
