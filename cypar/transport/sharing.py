"""Objects that the user promises not to change: `share`.

A shared object is pickled once, sent once to each worker, and loaded once there; every
task gets that one object. Pickles refer to it by number.

Thread safety: GIL.
"""

from __future__ import annotations

import itertools
import sys

# id of the object -> Shared; the object is kept alive, so that the id stays its own
shared: dict = {}
_numbers = itertools.count(1)
# in a worker: number -> object, or the message that holds it
_loaded: dict = {}
_unloaded: dict = {}


class Shared:
    """What is known of one shared object.

    Attributes
    ----------
    number : int
    obj : object
    captured : tuple or None
        (bytes, Parcel or None) once it was pickled.
    """

    __slots__ = ("captured", "number", "obj")

    def __init__(self, obj):
        self.number = next(_numbers)
        self.obj = obj
        self.captured = None

    def __reduce__(self):
        return load_shared, (self.number,)


def share(obj):
    """Promise that an object will not be changed; returns the object itself.

    When it is an argument of a task, the process backends pickle it once, send it once
    to each worker process and load it once there, in all calls that follow. All tasks
    of a worker get the same object: they must not change it, as they would with
    threads. Large arrays in it are mapped, and never compared with what was sent.

    Parameters
    ----------
    obj : object
        Anything that can be pickled. Only tasks whose argument is this very object
        profit, not those that get an equal one, or a container that holds it.

    Returns
    -------
    object
        ``obj``. It is forgotten when nothing else refers to it any more.

    Examples
    --------
    >>> from cypar import Parallel, delayed, share
    >>> table = share({"a": 1, "b": 2})
    >>> def lookup(table, key):
    ...     return table[key]
    >>> Parallel(n_jobs=2)(delayed(lookup)(table, key) for key in "ab")
    [1, 2]
    """
    sweep()
    if shared.get(id(obj)) is None:
        shared[id(obj)] = Shared(obj)
    return obj


def sweep():
    """Forget objects that nobody else refers to."""
    for key in list(shared):
        handle = shared.get(key)  # another thread may sweep, too
        if handle is not None and sys.getrefcount(handle.obj) <= _ALONE:
            shared.pop(key, None)


def replace(args, kwargs):
    """Put `Shared` in the place of shared objects among the arguments of a task."""
    if not any(id(arg) in shared for arg in (*args, *kwargs.values())):
        return args, kwargs
    args = tuple(shared.get(id(arg), arg) for arg in args)
    return args, {name: shared.get(id(arg), arg) for name, arg in kwargs.items()}


class Failed:
    """Stands in a worker for an object that could not be loaded."""

    __slots__ = ("error",)

    def __init__(self, error):
        self.error = error


# ---- in a worker -----------------------------------------------------------------


def keep_shared(number, inbox):
    """Keep the message with an object that tasks will refer to."""
    _unloaded[number] = inbox
    _loaded.pop(number, None)


def drop_shared(numbers):
    """Let go of objects that the parent has forgotten."""
    for number in numbers:
        _loaded.pop(number, None)
        inbox = _unloaded.pop(number, None)
        if inbox is not None:
            inbox.close()


def load_shared(number):
    """Return the object that a pickle refers to."""
    if number not in _loaded:
        inbox = _unloaded.pop(number)
        try:
            _loaded[number] = inbox.load(0)
        except Exception as error:  # it cannot be loaded again: its leases have ended
            _loaded[number] = Failed(error)
    found = _loaded[number]
    if type(found) is Failed:
        raise found.error
    return found


def _count_alone():
    kept = {0: Shared(object())}
    for key in kept:
        return sys.getrefcount(kept[key].obj)
    return None


_ALONE = _count_alone()
