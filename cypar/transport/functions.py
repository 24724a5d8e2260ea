"""How a task's function travels: once per worker if possible, else with every task.

Three forms of ``blob``, told apart by the first byte:
- ``R``: names of a module and a function, and the digest of its code;
- ``C``: digests of functions that the pickle needs by name, and then the pickle;
- anything else: a pickle.

Guarantees:
- A blob is reused only while all that is in it is the identical objects (core/_watch).
- What can change inside (a list, an object, a class of ``__main__``) is pickled at
  every draw, and the worker loads it afresh for every task (``mutable``).
- A worker whose own import of a function differs says so (`ModuleChanged`).

Thread safety: GIL. Threads may encode the same function at once; both results hold.
"""

from __future__ import annotations

import sys
from _weakref import ref as weak_reference  # weakref itself costs 1 ms to import
from types import FunctionType, MethodType

from cypar.core._watch import Watch
from cypar.core.errors import CyparError
from cypar.transport import settings
from cypar.transport.digest import function_digest
from cypar.transport.importable import (
    distrust,
    lookup,
    refresh,
    travels_by_reference,
)
from cypar.transport.serialize import dumps, loads

MAX_ENTRIES = 512  # functions remembered; each keeps what it captured alive

_BY_NAME = b"R"
_CHECKED = b"C"
# Other picklers may look at more than Captures does: dill can send whole modules.
_KNOWN_PICKLERS = ("cloudpickle", "pickle")


class ModuleChanged(CyparError):
    """A worker's import of a function is not the one that the parent has.

    Attributes
    ----------
    module : str
        Name of the module.
    was_loaded : bool
        True if the worker had imported the module before: a new worker helps. False
        if it has just been imported: the file differs from what the parent loaded,
        and the module's functions must travel by value (`FunctionTable.distrust`).
    """

    def __init__(self, module, was_loaded, reason):
        super().__init__(module, was_loaded, reason)
        self.module = module
        self.was_loaded = was_loaded

    def __str__(self):
        return f"the module {self.module!r} of the worker differs: {self.args[2]}"


class FunctionRef:
    """A function, ready to be sent.

    Attributes
    ----------
    blob : bytes
        What `decode` takes.
    mutable : bool
        True if the worker must decode it again for each task.
    number : int
        Two refs of one table with the same number have the same blob.
    name : str
        For messages.
    source : weak reference or None
        To what was encoded: a reference keeps no function alive.
    """

    __slots__ = ("blob", "mutable", "name", "number", "source")
    packed = False

    def __init__(self, function, blob, mutable, number, name):
        try:
            self.source = weak_reference(function)
        except TypeError:  # this type has no weak references
            self.source = None
        self.blob = blob
        self.mutable = mutable
        self.number = number
        self.name = name

    def __repr__(self):
        kind = "mutable" if self.mutable else "constant"
        return f"<FunctionRef {self.number} {self.name}: {len(self.blob)} B, {kind}>"


class PackedRef:
    """A function that holds large buffers: it is pickled with its task's arguments.

    Attributes
    ----------
    guard : FunctionRef or None
        What the worker must decode first, to check what it imports.
    name : str
    """

    __slots__ = ("guard", "name")
    packed = mutable = True
    source = None

    def __init__(self, name, guard):
        self.guard = guard
        self.name = name


class FunctionTable:
    """Encode functions, remembering what has not changed.

    Examples
    --------
    >>> table = FunctionTable()
    >>> table.encode(len) is table.encode(len)
    True
    >>> decode(table.encode(lambda x: x + 1).blob)(2)
    3
    """

    def __init__(self):
        # id(function) -> Watch; its payload is a FunctionRef, or for a function that
        # is pickled at every draw the references that the worker must check
        self._watches = {}
        self._newest = None  # the newest ref of a function that is pickled every time
        # ids of functions that held large buffers; one too many does no harm
        self._packed = set()
        self._count = 0
        self._generation = settings.generation

    def encode(self, function, memory=None):
        """Return a `FunctionRef` for a function as it is now.

        Parameters
        ----------
        function : callable
        memory : CallMemory, optional
            With it, a function that holds large buffers gives a `PackedRef`.

        Raises
        ------
        Exception
            As `cypar.transport.serialize.dumps`.
        """
        # A method is a new object at each draw, so what is known is its function.
        key = function.__func__ if type(function) is MethodType else function
        watch = self._watches.get(id(key))
        if (
            watch is None
            or not watch.holds(key)
            or self._generation != settings.generation
        ):
            return self._encode_new(function, key, memory)
        known = watch.payload
        if type(known) is not FunctionRef:
            return self._encode_again(function, key, known, memory)
        if key is function:
            return known
        # seen as a function, now as a method
        return self._encode_again(function, key, {}, memory)

    def watch_of(self, function, reference):
        """Return the Watch that tells whether ``reference`` still holds, or None.

        None for functions that are pickled at every draw.
        """
        watch = self._watches.get(id(function))
        if watch is not None and watch.payload is reference:
            return watch
        return None

    def distrust(self, module):
        """Send functions and classes of that module by value from now on.

        Called when a fresh worker reported `ModuleChanged` with ``was_loaded`` false.
        """
        distrust(module)
        self.clear()

    def clear(self):
        """Forget all functions."""
        self._watches.clear()
        self._packed.clear()
        self._newest = None

    def _encode_new(self, function, key, memory):
        if self._generation != settings.generation:
            self.clear()
            self._generation = settings.generation
        refresh()
        if type(function) is FunctionType and travels_by_reference(function):
            return self._encode_by_name(function)
        # needs dis (3 ms), for functions that mostly need cloudpickle (25 ms) anyway
        from cypar.transport.captures import Captures

        captures = Captures(function)
        steady = captures.steady and settings.get_pickler_name() in _KNOWN_PICKLERS
        if steady and key is function:
            blob = _with_checks(dumps(function), captures.references)
            known = self._make_ref(function, blob, captures.writes)
            self._remember(key, captures.parts(), known)
            return known
        self._remember(key, captures.parts(), captures.references)
        return self._encode_again(function, key, captures.references, memory)

    def _encode_by_name(self, function):
        name = (function.__module__, function.__qualname__)
        blob = _BY_NAME + dumps((*name, function_digest(function)))
        known = self._make_ref(function, blob, False)
        parts = (
            function,
            function.__code__,
            function.__defaults__,
            function.__kwdefaults__,
            len(function.__dict__),
        )
        self._remember(function, ((parts,), (), (), ()), known, weak=False)
        return known

    def _encode_again(self, function, key, references, memory):
        if memory is None:
            blob = dumps(function)
        elif id(key) in self._packed:
            return self._make_packed(function, references)
        else:
            blob, parcel = memory.dumps(function)
            if parcel is not None:
                if len(self._packed) >= MAX_ENTRIES:
                    self._packed.clear()
                self._packed.add(id(key))
                return self._make_packed(function, references)
        blob = _with_checks(blob, references)
        newest = self._newest
        if newest is None or newest.blob != blob:
            newest = self._newest = self._make_ref(function, blob, True)
        return newest

    def _make_packed(self, function, references):
        guard = None
        if references:
            guard = self._make_ref(
                function, _with_checks(dumps(None), references), False
            )
        return PackedRef(_name_of(function), guard)

    def _make_ref(self, function, blob, mutable):
        self._count += 1
        return FunctionRef(function, blob, mutable, self._count, _name_of(function))

    def _remember(self, owner, parts, known, weak=True):
        key = id(owner)
        watches = self._watches
        if weak:
            try:
                owner = weak_reference(owner, lambda _: watches.pop(key, None))
            except TypeError:  # this type has no weak references
                weak = False
        watches[key] = Watch(owner, weak, *parts, known)
        if len(watches) > MAX_ENTRIES:
            watches.pop(next(iter(watches)), None)


def _with_checks(blob, references):
    if not references:
        return blob
    checks = tuple((*name, digest) for name, digest in references.items())
    return _CHECKED + dumps((checks, blob))


def _name_of(function):
    return getattr(function, "__qualname__", None) or type(function).__qualname__


# ---- in the worker -----------------------------------------------------------------

# (module, qualname, digest) -> (function, code) that were found to agree
_verified: dict = {}


def decode(blob):
    """Load a function that `FunctionTable.encode` encoded.

    Raises
    ------
    ModuleChanged
        If a function that goes by name cannot be imported or has other code here.
    """
    form = blob[:1]
    if form == _BY_NAME:
        return _import_checked(*loads(blob[1:]))
    if form == _CHECKED:
        checks, blob = loads(blob[1:])
        for check in checks:
            _import_checked(*check)
    return loads(blob)


def _import_checked(module_name, qualname, digest):
    was_loaded = module_name in sys.modules
    if not was_loaded:
        try:
            __import__(module_name)
        except Exception as error:
            reason = f"it cannot be imported: {error!r}"
            raise ModuleChanged(module_name, False, reason) from error
    function = lookup(sys.modules.get(module_name), qualname)
    code = getattr(function, "__code__", None)
    key = (module_name, qualname, digest)
    known = _verified.get(key)
    if known is not None and known[0] is function and known[1] is code:
        return function
    if function is None:
        raise ModuleChanged(module_name, was_loaded, f"it has no {qualname}")
    if function_digest(function) != digest:
        reason = f"{qualname} has different code"
        raise ModuleChanged(module_name, was_loaded, reason)
    _verified[key] = (function, code)
    return function
