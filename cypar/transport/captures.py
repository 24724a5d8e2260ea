"""Find out what a function carries with it when it is pickled by value.

A function's pickle can be kept for the next draw only if everything in it is the same
then. The walk over closure cells, globals, defaults and attributes ends in one of two
answers: all of it is immutable or goes by name, and is listed, so that core/_watch can
compare it by identity; or something can change inside, and the function must be
pickled at every draw.

Thread safety: GIL; one `Captures` object belongs to one walk.
"""

from __future__ import annotations

import copyreg
import dis
import functools
import sys
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from weakref import WeakKeyDictionary

from cypar.core._plain import is_immutable
from cypar.core._watch import MISSING, ROOT
from cypar.transport.digest import function_digest
from cypar.transport.importable import (
    builtin_travels_by_reference,
    is_distrusted,
    is_user_module,
    travels_by_reference,
    worker_can_import,
)

_LruCache = type(functools.lru_cache(lambda: None))
_READS = frozenset(("LOAD_GLOBAL", "LOAD_NAME"))
_WRITES = frozenset(("STORE_GLOBAL", "DELETE_GLOBAL"))
_CELL_WRITES = frozenset(("STORE_DEREF", "DELETE_DEREF"))
MAX_DEPTH = 16  # tuples in tuples, functions behind functions
MAX_PARTS = 2000  # more would cost more at each draw than pickling again

# code -> what names_of_code returns
_names_of_code: WeakKeyDictionary = WeakKeyDictionary()
# function -> (code, digest); a digest takes 20 us
_digests: WeakKeyDictionary = WeakKeyDictionary()


class Captures:
    """What one function carries.

    Attributes
    ----------
    steady : bool
        True if all that was captured is immutable or goes by name.
    writes : bool
        True if the function rebinds globals or cells of its own: each task then
        needs a fresh copy, or one task would see what another one wrote.
    functions, cells, names, sizes : list of tuple
        As `cypar.core._watch.Watch` takes them.
    references : dict
        ``(module, qualname) -> digest`` for functions of the user's own modules that
        go by name.
    """

    def __init__(self, root):
        self.root = root
        self.writes = False
        self.functions = []
        self.cells = []
        self.names = []
        self.sizes = []
        self.references = {}
        self._seen = set()
        self.steady = self._is_steady(root, MAX_DEPTH)

    def parts(self):
        """Return the lists as `Watch` wants them."""
        return tuple(map(tuple, (self.functions, self.cells, self.names, self.sizes)))

    def _is_steady(self, value, depth):
        """Tell whether ``value`` is the same at the next draw if its identity is."""
        if is_immutable(value):
            return True
        if depth == 0 or self._count() > MAX_PARTS:
            return False
        visit = _VISITORS.get(type(value))
        if visit is not None:
            return visit(self, value, depth - 1)
        if isinstance(value, type):
            return travels_by_reference(value)
        if isinstance(value, ModuleType):
            return worker_can_import(value.__name__)
        return _reduces_to_name(value)

    def _count(self):
        return len(self.functions) + len(self.cells) + len(self.names)

    # ---- one method for each type --------------------------------------------------
    # None of them stops at the first thing that is not steady: the references must be
    # complete for functions that are pickled at every draw, too.

    def _visit_function(self, function, depth):
        if travels_by_reference(function):
            self._note_reference(function)
            return True
        if id(function) in self._seen:
            return True
        self._seen.add(id(function))
        if {type(function.__dict__), type(function.__globals__)} != {dict}:
            return False  # Watch compares exact dicts only
        self._note_function(function)
        names, attributes, rebinds, cell_writes = names_of_code(function.__code__)
        self.writes |= rebinds or bool(cell_writes)
        answers = (
            self._visit_items(function.__defaults__ or (), depth),
            self._visit_dict(function.__kwdefaults__, depth),
            self._visit_dict(function.__dict__, depth),
            self._visit_cells(function.__closure__ or (), attributes, depth),
            self._visit_globals(function.__globals__, names, attributes, depth),
        )
        return all(answers)

    def _visit_items(self, items, depth):
        answers = [self._is_steady(item, depth) for item in items]
        return all(answers)

    def _visit_dict(self, items, depth):
        if not items:  # an attribute set later is seen by the count of attributes
            return True
        if type(items) is not dict:  # Watch compares exact dicts only
            return False
        content = list(items.items())
        self.sizes.append((items, len(content)))
        for key, value in content:
            self.names.append((items, key, self._mark(value)))
        return self._visit_items((value for _, value in content), depth)

    def _visit_cells(self, cells, attributes, depth):
        steady = True
        for cell in cells:
            try:
                value = cell.cell_contents
            except ValueError:  # the variable has no value yet
                self.cells.append((cell, MISSING))
                continue
            self.cells.append((cell, self._mark(value)))
            steady &= self._is_steady(value, depth)
            self._note_module(value, attributes, depth)
        return steady

    def _visit_globals(self, namespace, names, attributes, depth):
        steady = True
        for name in names:
            value = namespace.get(name, MISSING)
            self.names.append((namespace, name, self._mark(value)))
            if value is MISSING:  # a builtin, or not defined yet
                continue
            steady &= self._is_steady(value, depth)
            self._note_module(value, attributes, depth)
        return steady

    def _visit_partial(self, partial, depth):
        self.sizes.append((partial.keywords, len(partial.keywords)))
        answers = (
            self._is_steady(partial.func, depth),
            self._visit_items(partial.args, depth),
            self._visit_dict(partial.keywords, depth),
            not vars(partial),
        )
        return all(answers)

    def _visit_lru_cache(self, cached, depth):
        return travels_by_reference(cached) or self._is_steady(
            cached.__wrapped__, depth
        )

    def _visit_method(self, method, depth):
        self._is_steady(method.__func__, depth)  # notes its digest
        return isinstance(method.__self__, type) and self._is_steady(
            method.__self__, depth
        )

    def _visit_builtin(self, function, depth):
        return builtin_travels_by_reference(function)

    def _visit_descriptor(self, descriptor, depth):
        return travels_by_reference(descriptor.__objclass__)

    # ---- notes for the watch and for the worker ------------------------------------

    def _mark(self, value):
        return ROOT if value is self.root else value

    def _note_function(self, function):
        part = (
            self._mark(function),
            function.__code__,
            function.__defaults__,
            function.__kwdefaults__,
            len(function.__dict__),
        )
        self.functions.append(part)

    def _note_reference(self, function):
        """Let the worker check functions that the user may edit in mid-session."""
        name = function.__module__
        key = (name, function.__qualname__)
        if key in self.references or is_distrusted(name):
            return
        if not is_user_module(sys.modules[name]):
            return
        self._note_function(function)
        known = _digests.get(function)
        if known is None or known[0] is not function.__code__:
            known = (function.__code__, function_digest(function))
            _digests[function] = known
        self.references[key] = known[1]

    def _note_module(self, module, attributes, depth):
        """Do the same for ``helpers.work`` where ``helpers`` is a module."""
        if not isinstance(module, ModuleType) or depth == 0:
            return
        if (id(module), attributes) in self._seen:  # modules often know each other
            return
        self._seen.add((id(module), attributes))
        if not is_user_module(module) or not worker_can_import(module.__name__):
            return
        namespace = vars(module)
        for name in attributes:
            value = namespace.get(name)
            if isinstance(value, FunctionType) and travels_by_reference(value):
                self.names.append((namespace, name, self._mark(value)))
                self._note_reference(value)
            else:
                self._note_module(value, attributes, depth - 1)


_VISITORS = {
    FunctionType: Captures._visit_function,
    tuple: Captures._visit_items,
    frozenset: Captures._visit_items,
    functools.partial: Captures._visit_partial,
    _LruCache: Captures._visit_lru_cache,
    MethodType: Captures._visit_method,
    BuiltinFunctionType: Captures._visit_builtin,
    MethodDescriptorType: Captures._visit_descriptor,
    WrapperDescriptorType: Captures._visit_descriptor,
}


def names_of_code(code):
    """Find the names that a code object and the functions inside it use.

    Returns
    -------
    tuple
        Names of the globals; the names of all attributes and globals; whether it
        rebinds globals; the names of the captured variables that it rebinds.
    """
    known = _names_of_code.get(code)
    if known is not None:
        return known
    reads = {}  # a dict keeps the order, so that equal functions give equal watches
    attributes = set(code.co_names)
    rebinds = False
    cell_writes = set()
    for instruction in dis.get_instructions(code):
        operation = instruction.opname
        if operation in _READS:
            reads[instruction.argval] = None
        elif operation in _WRITES:
            reads[instruction.argval] = None
            rebinds = True
        elif operation in _CELL_WRITES and instruction.argval in code.co_freevars:
            cell_writes.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            inner = names_of_code(constant)
            reads.update(dict.fromkeys(inner[0]))
            attributes |= inner[1]
            rebinds |= inner[2]
            # a variable of this code is made anew by every call
            cell_writes |= inner[3] - set(code.co_cellvars)
    answer = (tuple(reads), frozenset(attributes), rebinds, frozenset(cell_writes))
    _names_of_code[code] = answer
    return answer


def _reduces_to_name(value):
    """Tell whether pickle sends the object as the name of a global.

    So do NumPy's ufuncs and functions compiled by Cython.
    """
    if not callable(value) or not hasattr(value, "__name__"):
        return False
    try:
        registered = copyreg.dispatch_table.get(type(value))
        reduced = value.__reduce_ex__(4) if registered is None else registered(value)
        return isinstance(reduced, str)
    except Exception:  # the pickler will raise the same, with a better message
        return False
