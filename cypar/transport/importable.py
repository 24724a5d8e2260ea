"""What a worker process finds by import, and what must travel by value.

A worker is a fresh Python with the parent's ``sys.path``. A function, class or module
can be sent as a name ("by reference") only if the worker's import of that name runs
the same file. `__main__`, modules built by ``exec`` or ``types.ModuleType``, modules
loaded from a path that is not on ``sys.path`` and modules under import hooks that the
worker does not get all travel by value.

Guarantees:
- A wrong "yes" needs a file that changes between the two imports (functions.py notices
  that by the digest) or an import hook that behaves differently in a fresh Python.
- Answers are kept for each module until ``sys.path`` or, with relative entries on it,
  the working directory changes.

Thread safety: GIL. Two threads may compute the same answer; the dict keeps one.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from types import BuiltinFunctionType, ModuleType

# Both names can stand for the user's script; a worker has a __main__ of its own.
_MAIN_NAMES = frozenset(("__main__", "__mp_main__"))
# Loaders give these origins to modules that are part of the interpreter.
_INTERPRETER_ORIGINS = frozenset(("built-in", "frozen"))

# module name -> (module, can a worker import it)
_answers: dict[str, tuple[ModuleType, bool]] = {}
# modules whose file is not what this process loaded
_distrusted: set[str] = set()
# what _answers holds for: sys.path and the working directory
_seen: tuple[list, str] | None = None


def worker_can_import(name):
    """Tell whether a worker's ``import name`` gives the module loaded here.

    Parameters
    ----------
    name : str
        Full name of a module, such as ``"os.path"``.

    Returns
    -------
    bool
        False also for names that are not in ``sys.modules``.
    """
    if name == "cypar" or name.startswith("cypar."):
        return name in sys.modules  # workers are started with the parent's
    module = sys.modules.get(name)
    if getattr(getattr(module, "__spec__", None), "_initializing", False):
        return False  # a worker would run again what runs here now
    known = _answers.get(name)
    if known is not None and known[0] is module:
        return known[1]
    answer = (
        name not in _MAIN_NAMES
        and isinstance(module, ModuleType)
        and _is_found(name, module)
    )
    _answers[name] = (module, answer)
    return answer


def refresh():
    """Forget all answers if ``sys.path`` changed; call before a series of questions."""
    global _seen
    cwd = _cwd()
    if _seen is not None and _seen[0] == sys.path and _seen[1] == cwd:
        return
    _answers.clear()
    _seen = (list(sys.path), cwd)


def distrust(name):
    """Send the functions and classes of a module by value from now on.

    The module itself goes on by name: its whole contents could seldom be pickled.
    """
    _distrusted.add(name)


def is_distrusted(name):
    """Tell whether `distrust` was called for the module."""
    return name in _distrusted


def travels_by_reference(obj):
    """Tell whether a function or class is what a worker finds under its name.

    Parameters
    ----------
    obj : function or class
        Anything with ``__module__`` and ``__qualname__`` may be given.
    """
    try:
        module_name = obj.__module__
        qualname = obj.__qualname__
    except Exception:  # a metaclass or __getattr__ of the user's failed
        return False
    if not isinstance(module_name, str) or not isinstance(qualname, str):
        return False
    if module_name in _distrusted:
        return False
    module = sys.modules.get(module_name)
    if module is None or lookup(module, qualname) is not obj:
        return False
    return worker_can_import(module_name)


def builtin_travels_by_reference(function):
    """Tell the same of a C function, whose module may be None or its ``__self__``."""
    owner = getattr(function, "__self__", None)
    if type(function) is BuiltinFunctionType and isinstance(owner, type):
        return _class_has(owner, function)  # such as dict.fromkeys
    if owner is not None and not isinstance(owner, ModuleType):
        return False  # a bound method of an object, such as [].append
    return travels_by_reference(function)


def lookup(module, qualname):
    """Return ``module.a.b.c`` for ``"a.b.c"``, or None if there is no such thing."""
    found = module
    try:
        for part in qualname.split("."):
            found = getattr(found, part)
    except Exception:  # "<locals>", a missing name, a module whose __getattr__ fails
        return None
    return found


def is_user_module(module):
    """Tell whether a module is likely to be edited: not installed, not built in."""
    path = getattr(module, "__file__", None)
    if not isinstance(path, str) or path.startswith(_STDLIB):
        return False
    return "site-packages" not in path and "dist-packages" not in path


_STDLIB = os.path.dirname(os.__file__) + os.sep


def _class_has(owner, method):
    if not travels_by_reference(owner):
        return False
    return getattr(owner, method.__name__, None) == method


def _is_found(name, module):
    spec = getattr(module, "__spec__", None)
    if spec is None:
        return False
    if spec.origin in _INTERPRETER_ORIGINS:
        return True
    found = _find(name)
    if found is None:
        # os.path and other aliases: the module has a name of its own
        return spec.name != name and worker_can_import(spec.name)
    return _same_origin(spec, found)


def worker_path(path, cwd=None):
    """Return the ``sys.path`` of a worker: the working directory comes last.

    A user's random.py must not shadow the standard library there. ``python -c`` has
    ``''`` in front, ``python -m`` the directory's name.
    """
    if cwd is None:
        cwd = _cwd()
    usable = [entry for entry in path if isinstance(entry, str)]  # as import does
    here = [entry for entry in usable if entry in ("", cwd)]
    return [entry for entry in usable if entry not in ("", cwd)] + here


def _cwd():
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


def _find(name):
    """Return the spec that the finders of a worker give, or None."""
    parent, _, _ = name.rpartition(".")
    search = None
    if parent:
        if not worker_can_import(parent):
            return None
        search = getattr(sys.modules[parent], "__path__", None)
        if search is None:
            return None
    for finder in [PathFinder, *_site_finders()]:
        where = search
        if finder is PathFinder and not parent:
            where = worker_path(sys.path)
        try:
            found = finder.find_spec(name, where)
        except Exception:  # a broken path entry or a finder that wants its own state
            continue
        if found is not None:
            return found
    return None


def _site_finders():
    """Yield import hooks that start-up files (.pth) install in every Python.

    Editable installs put a one-module finder straight into site-packages. A hook
    that is part of a package is installed by a call that a worker would not make.
    """
    if sys.flags.no_site:
        return
    for finder in sys.meta_path:
        cls = finder if isinstance(finder, type) else type(finder)
        home = sys.modules.get(cls.__module__)
        path = getattr(home, "__file__", None)
        if isinstance(path, str) and os.path.basename(os.path.dirname(path)) in (
            "site-packages",
            "dist-packages",
        ):
            yield finder


def _same_origin(loaded, found):
    if loaded.origin is None or found.origin is None:
        # namespace packages have no file; their parts are compared one by one
        return loaded.origin is found.origin and (
            found.submodule_search_locations is not None
        )
    if loaded.origin == found.origin:
        return True
    try:
        return os.path.samefile(loaded.origin, found.origin)
    except OSError:
        return False
