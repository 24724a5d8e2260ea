"""Large pickles that were sent before, whole or in part, are not sent again.

Two ways, both within one call:

- A task that gets the same large dict as the one before has a pickle that is equal but
  for its other arguments. It is sent as a `Patch`: how many bytes to take from the
  beginning and the end of other bytes, which the worker has, and what stands between.
- If that argument is plain data and the only one that can change, it is not even
  pickled again as long as it is unchanged (core/_snapshot); the task's own pickle
  refers to the bytes (`Repeats`).

In both cases every task has objects of its own: a patched pickle is loaded for each,
and plain data is copied for each, as far as it can change.

Thread safety: `Deltas` and `Repeats` belong to the thread that draws for one call.
"""

from __future__ import annotations

import gc
import itertools
from _pickle import dumps as _c_dumps
from _pickle import loads

from cypar.core._copying import common_ends
from cypar.core._plain import is_immutable
from cypar.core._snapshot import Snapshot, copy_plain
from cypar.transport import settings
from cypar.transport.pieces import PATCH

MIN_BYTES = 64 << 10  # of a pickle that is looked at
MIN_SAVING = 0.75  # of its bytes
MAX_BASES = 4  # in memory, here and in each worker
# A garbage collection during the load of many objects looks at all of them in vain.
NO_COLLECTION_BYTES = 1 << 18
_CONTAINERS = frozenset((dict, list, set, tuple, frozenset))
_numbers = itertools.count(1)

# in a worker: number -> bytes that tasks refer to
received: dict = {}
_originals: dict = {}  # number -> what the bytes are a pickle of; no task has it


class Base:
    """Bytes that are sent once and referred to.

    In a pickle it stands for the object that the bytes are a pickle of.
    """

    __slots__ = ("data", "number")

    def __init__(self, data):
        self.number = next(_numbers) & 0xFFFFFFFF
        self.data = data

    def __reduce__(self):
        return load_base, (self.number,)


class Patch:
    """One pickle as a difference to a base."""

    __slots__ = ("base", "middle", "prefix", "suffix")

    def __init__(self, base, prefix, suffix, middle):
        self.base = base
        self.prefix = prefix
        self.suffix = suffix
        self.middle = middle

    def __len__(self):
        return PATCH.size + len(self.middle)

    def encoded(self):
        """Return the bytes that go into a message."""
        return PATCH.pack(self.base.number, self.prefix, self.suffix) + self.middle


class Deltas:
    """Finds what large pickles have in common.

    Examples
    --------
    >>> deltas = Deltas()
    >>> data = b"x" * MIN_BYTES
    >>> deltas.encode(data) is data  # nothing to compare with
    True
    >>> patch = deltas.encode(data + b"y")
    >>> received[patch.base.number] = patch.base.data  # in a worker
    >>> restore(patch.encoded()) == data + b"y"
    True
    """

    def __init__(self):
        self.bases = []  # the most recently used last

    def encode(self, data):
        """Return a `Patch`, or the bytes if nothing like them came before."""
        for base in reversed(self.bases):
            prefix, suffix = common_ends(base.data, data)
            if prefix + suffix >= MIN_SAVING * len(data):
                self.bases.remove(base)
                self.bases.append(base)
                return Patch(base, prefix, suffix, data[prefix : len(data) - suffix])
        self.bases.append(Base(data))
        if len(self.bases) > MAX_BASES:
            del self.bases[0]
        return data


class Repeats:
    """Finds arguments that come again and again, unchanged.

    Examples
    --------
    >>> repeats = Repeats()
    >>> table = {i: str(i) for i in range(20_000)}
    >>> repeats.note((table, 1), {}, MIN_BYTES)  # its pickle was large
    >>> args, kwargs, base = repeats.replace((table, 2), {})
    >>> args == (base, 2)
    True
    >>> repeats.replace((table, 3), {})[2] is base
    True
    >>> table[5] = None
    >>> repeats.replace((table, 4), {})[2] is base
    False
    """

    def __init__(self):
        self.known = {}  # id -> (argument, Snapshot or None before its second time)

    def note(self, args, kwargs, size):
        """Take note of a task whose pickle had ``size`` bytes."""
        if size < MIN_BYTES or not settings.plain_shortcut:
            return
        found = _only_mutable(args, kwargs)
        if found is not None and id(found) not in self.known:
            while len(self.known) >= MAX_BASES:
                self.known.pop(next(iter(self.known)))
            self.known[id(found)] = (found, None)

    def replace(self, args, kwargs):
        """Return the arguments with a `Base` for what came before, and that base.

        None if there is nothing to gain.
        """
        found = _only_mutable(args, kwargs)
        if found is None or id(found) not in self.known or not settings.plain_shortcut:
            return None
        snapshot = self.known[id(found)][1]
        if snapshot is None or not snapshot.holds(found):
            data = _c_dumps(found, 5)
            if len(data) < MIN_BYTES:
                del self.known[id(found)]
                return None
            try:
                snapshot = Snapshot(found, Base(data))
            except ValueError:  # arrays and the like: it must be pickled every time
                del self.known[id(found)]
                return None
            self.known[id(found)] = (found, snapshot)
        base = snapshot.payload
        args = tuple(base if arg is found else arg for arg in args)
        kwargs = {name: base if arg is found else arg for name, arg in kwargs.items()}
        return args, kwargs, base


def _only_mutable(args, kwargs):
    """Return the one argument that is a container and not immutable, or None.

    Of two mutable arguments, one may hold the other, which must survive the way.
    """
    found = None
    for arg in (*args, *kwargs.values()):
        if not is_immutable(arg):
            if found is not None or type(arg) not in _CONTAINERS:
                return None
            found = arg
    return found


# ---- in a worker -----------------------------------------------------------------


def restore(data):
    """Return the bytes that an encoded patch stands for."""
    number, prefix, suffix = PATCH.unpack_from(data)
    view = memoryview(received[number])
    return b"".join((view[:prefix], data[PATCH.size :], view[len(view) - suffix :]))


def load_base(number):
    """Return the plain data that a base is a pickle of: a new copy each time."""
    if number not in _originals:
        _originals[number] = load_large(received[number])
    return _uncollected(copy_plain, _originals[number])


def drop_base(number):
    """Forget a base."""
    received.pop(number, None)
    _originals.pop(number, None)


def drop_bases():
    """Forget all bases."""
    received.clear()
    _originals.clear()


def load_large(data, buffers=()):
    """Unpickle; without collections if there is much."""
    if len(data) < NO_COLLECTION_BYTES:
        return loads(data, buffers=buffers)
    return _uncollected(lambda: loads(data, buffers=buffers))


def _uncollected(function, *args):
    if not gc.isenabled():
        return function(*args)
    gc.disable()
    try:
        return function(*args)
    finally:
        gc.enable()
