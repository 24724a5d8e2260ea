"""Which modules the fork server imports before it forks workers."""

from __future__ import annotations

import sys

# Slow to import and of use to most tasks; imported there if the parent has them.
USUAL = ("cloudpickle", "numpy")

_chosen = ()


def set_preload(modules):
    """Choose modules that worker processes get already imported.

    They are imported once, in the small process that workers are forked from, so
    that a worker neither imports them again nor has memory of its own for them.
    numpy and cloudpickle need not be named: they are imported there if they are in
    this program. Workers that run already are not affected.

    The modules must not start threads: while there is one, workers are started as
    fresh interpreters instead. What must differ between workers (random generators,
    connections) belongs into a function that the module registers with
    ``os.register_at_fork(after_in_child=function)``: it runs in every new worker,
    before any task. `random` and ``numpy.random`` are seeded anew by themselves.

    Parameters
    ----------
    modules : iterable of str
        Names of modules, as in an import statement. Replaces those chosen before.

    Raises
    ------
    TypeError
        If it is a string or one of the names is none.

    Examples
    --------
    >>> from cypar import set_preload
    >>> set_preload(['decimal'])
    >>> set_preload([])
    """
    global _chosen
    if isinstance(modules, str):
        raise TypeError(
            f"modules must be a list of names, got the string {modules!r}: write "
            f"set_preload([{modules!r}])"
        )
    names = tuple(modules)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"modules must be names such as 'pandas', got {name!r} of type "
                f"{type(name).__name__}"
            )
    _chosen = names


def names():
    """Return the modules that a worker started now should have: (usual, chosen)."""
    return [name for name in USUAL if name in sys.modules], list(_chosen)
