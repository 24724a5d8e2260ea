"""Which pickler serialises, and the user's own reducers.

Both hold for the process and for the workers it starts: `export_settings` gives the
bytes that a worker hands to `import_settings`.

Thread safety: GIL. Change the settings before the calls that should use them.
"""

from __future__ import annotations

import os
import sys

# exact type -> function that returns what __reduce__ would; read by every pickler
reducers: dict = {}
# counts changes, so that caches of pickled bytes and running workers notice them
generation = 0
DEFAULT_PICKLER = "cloudpickle"
# True while neither a pickler nor reducers were chosen: plain data needs no question
plain_shortcut = True
_pickler_name = DEFAULT_PICKLER


def register_reducer(cls, reduce_fn):
    """Let ``reduce_fn(obj)`` pickle the instances of a class, in both directions.

    Parameters
    ----------
    cls : type
        Exact type; subclasses are not affected. Python's own scalars, containers
        and strings cannot be changed, since the C pickler never asks about them.
    reduce_fn : callable or None
        Takes the object and returns what ``object.__reduce__`` may return: a tuple
        ``(callable, args, ...)`` or the name of a global. None removes the reducer.

    Examples
    --------
    >>> from fractions import Fraction
    >>> register_reducer(Fraction, lambda x: (Fraction, (str(x),)))
    >>> register_reducer(Fraction, None)
    """
    if not isinstance(cls, type):
        raise TypeError(f"cls must be a class, got {cls!r}")
    if reduce_fn is None:
        reducers.pop(cls, None)
    elif callable(reduce_fn):
        reducers[cls] = reduce_fn
    else:
        raise TypeError(f"reduce_fn must be callable or None, got {reduce_fn!r}")
    _change(_pickler_name, reducers)


def set_pickler(pickler=None):
    """Choose the module that pickles functions, arguments and results.

    Parameters
    ----------
    pickler : str, module or None
        ``'cloudpickle'`` (default): the C pickler, and cloudpickle for what a worker
        could not import. ``'pickle'``: the C pickler alone; functions of ``__main__``
        and lambdas cannot be sent then. ``'dill'`` or any other module with a class
        ``Pickler`` or a function ``dumps``; ``pickle.loads`` must be able to read
        what it writes. None: what CYPAR_PICKLER or LOKY_PICKLER say.

    Raises
    ------
    ImportError
        If there is no such module.
    ValueError
        If the module has neither ``Pickler`` nor ``dumps``.
    """
    if pickler is None:
        name = _name_from_environment()
    elif isinstance(pickler, str):
        name = pickler
    else:
        name = pickler.__name__
        sys.modules.setdefault(name, pickler)
    check_pickler(name)
    _change(name, reducers)


def get_pickler_name():
    """Return the name of the module that pickles."""
    return _pickler_name


def _name_from_environment():
    names = (os.environ.get(key) for key in ("CYPAR_PICKLER", "LOKY_PICKLER"))
    return next(filter(None, names), DEFAULT_PICKLER)


def _change(pickler_name, new_reducers):
    global _pickler_name, plain_shortcut, generation
    if new_reducers is not reducers:
        reducers.clear()
        reducers.update(new_reducers)
    _pickler_name = pickler_name
    plain_shortcut = pickler_name == DEFAULT_PICKLER and not reducers
    generation += 1


def check_pickler(name):
    """Return the module of that name; raise if it cannot pickle."""
    if name == DEFAULT_PICKLER:
        return None  # the one that is imported only when it is needed
    try:
        __import__(name)
    except ImportError as error:
        raise ImportError(
            f"the pickler {name!r} cannot be imported ({error}); "
            "use 'cloudpickle', 'pickle' or the name of an installed module"
        ) from error
    module = sys.modules[name]
    if not hasattr(module, "Pickler") and not hasattr(module, "dumps"):
        raise ValueError(
            f"the module {name!r} has neither a class Pickler nor a function dumps, "
            "so it cannot be used as a pickler"
        )
    return module


def replace(pickler_name, new_reducers):
    """Take over another process's settings."""
    check_pickler(pickler_name)
    _change(pickler_name, new_reducers)


# A bad name in the environment is reported by the first dumps, not by the import.
_change(_name_from_environment(), reducers)
