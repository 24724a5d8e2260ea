"""Find out which part of a task cannot be pickled, and say so.

The pickler's own error names a type, seldom a place. The search pickles the parts of
the task one by one, goes into the part that fails, and ends at the object that has no
failing part. It runs only after a failure and is bounded in depth, objects and time.
"""

from __future__ import annotations

import functools
from time import monotonic
from types import FunctionType, MethodType, ModuleType

from cypar.core import errors
from cypar.core.traceback_text import message_of, safe_repr
from cypar.transport.serialize import PicklingError, probe

MAX_DEPTH = 20
MAX_PROBES = 3000  # objects pickled on trial
MAX_SECONDS = 2.0  # one probe of a large object may overrun it
MAX_KEY = 60  # characters of a key in the path
CURE = (
    'Use prefer="threads", which pickles nothing, or build that object inside the '
    "task or in a worker initializer."
)


def explain(index, function, args, kwargs, error):
    """Return the error to raise for a task that cannot be pickled.

    Parameters
    ----------
    index : int
        Position of the task in the input.
    function, args, kwargs
        The task.
    error : Exception
        What the pickler raised.

    Returns
    -------
    cypar.core.errors.TaskPicklingError
        Its message names the task, the argument and the path to the culprit, and
        ``error`` is its ``__cause__``. ``task_index`` is ``index``.

    Examples
    --------
    >>> from threading import Lock
    >>> print(explain(3, divmod, (1, [Lock()]), {}, TypeError()))
    task 3, argument 'y' -> [0]: cannot pickle '_thread.lock' object. Use prefer=...
    """
    try:
        where, reason = _search(function, args, kwargs, error)
    except Exception:  # user code in __getattr__, __len__ and the like
        where, reason = "", error
    place = f"task {index}" + (f", {where}" if where else "")
    text = message_of(reason, 2000).rstrip(".")
    if not isinstance(reason, (TypeError, PicklingError)):
        text = f"{type(reason).__name__}: {text}"  # raised by the object's own code
    explained = errors.TaskPicklingError(f"{place}: {text}. {CURE}")
    explained.task_index = index
    explained.__cause__ = error
    return explained


def _search(function, args, kwargs, error):
    """Return the path as text and the error of the last object on it."""
    budget = _Budget()
    for place, value in _parts_of_task(function, args, kwargs):
        reason = budget.probe(value)
        if reason is None:
            continue
        path, reason = _descend(value, reason, budget, {}) or ("", reason)
        return (f"{place} -> {path}" if path else place), reason
    return "", error


def _parts_of_task(function, args, kwargs):
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        name = type(function).__qualname__
    yield f"function {name!r}", function
    names = _parameter_names(function, args)
    for position, value in enumerate(args):
        yield f"argument {names[position]}", value
    for key, value in kwargs.items():
        yield f"argument {key!r}", value


def name_arguments(function, args):
    """Pair each positional argument with its parameter's name, quoted, or its place."""
    return list(zip(_parameter_names(function, args), args, strict=True))


def _parameter_names(function, args):
    """Return a name for each positional argument, or its position."""
    names = [str(position) for position in range(len(args))]
    try:
        import inspect  # 13 ms, only after a failure

        parameters = inspect.signature(function).parameters.values()
    except Exception:  # C functions may have no signature
        return names
    for position, parameter in enumerate(parameters):
        if position >= len(args) or parameter.kind == parameter.KEYWORD_ONLY:
            break
        if parameter.kind == parameter.VAR_POSITIONAL:
            for extra in range(position, len(args)):
                names[extra] = f"'{parameter.name}'[{extra - position}]"
            break
        names[position] = repr(parameter.name)
    return names


class _Budget:
    """Probes that are left."""

    def __init__(self):
        self.count = MAX_PROBES
        self.deadline = monotonic() + MAX_SECONDS

    def probe(self, value):
        """Return why ``value`` cannot be pickled; None if it can or nothing is left."""
        self.count -= 1
        if self.count < 0 or monotonic() > self.deadline:
            return None
        return probe(value)


def _descend(value, reason, budget, seen, depth=MAX_DEPTH):
    """Follow the failing parts of ``value``; return the path and the last error.

    None if ``value`` fails only because it leads back to something in ``seen``
    (id -> object, which keeps the ids from being used again).
    """
    seen[id(value)] = value
    leads_back = False
    for parts in _safe_parts(value) if depth else ():
        while True:
            fresh = [part for part in parts if id(part[1]) not in seen]
            leads_back |= len(fresh) < len(parts)
            found = _first_failing(fresh, budget)
            if found is None:
                break
            name, part, why = found
            deeper = _descend(part, why, budget, seen, depth - 1)
            if deeper is not None:
                path, why = deeper
                joint = " -> " if path and not path.startswith((".", "[")) else ""
                return name + joint + path, why
    return None if leads_back else ("", reason)


def _first_failing(parts, budget):
    """Find the first part that cannot be pickled by halving: (name, part, error).

    Halves are pickled as lists, so that a list of a million needs twenty probes.
    """
    while len(parts) > 1:
        middle = len(parts) // 2
        first = [part for _, part in parts[:middle]]
        parts = parts[:middle] if budget.probe(first) is not None else parts[middle:]
    for name, part in parts:
        reason = budget.probe(part)
        if reason is not None:
            return name, part, reason
    return None


def _safe_parts(value):
    try:
        yield from _kinds_of_parts(value)
    except Exception:  # user code in __getattribute__, __len__ and the like
        return


def _kinds_of_parts(value):
    """Yield lists of (name, part), the ones a reader would look at first."""
    kind = type(value)
    if kind is FunctionType:
        yield from _parts_of_function(value)
    elif kind is MethodType:
        yield [(".__self__", value.__self__), (".__func__", value.__func__)]
    elif kind is functools.partial:
        yield [(".func", value.func)]
        yield [(f".args[{i}]", part) for i, part in enumerate(value.args)]
        yield [(f".keywords[{k!r}]", part) for k, part in value.keywords.items()]
    elif isinstance(value, dict):
        yield [(f"[{_short(key)}]", part) for key, part in value.items()]
        yield [(f"key {_short(key)}", key) for key in value]
    elif isinstance(value, (list, tuple)):
        yield [(f"[{i}]", part) for i, part in enumerate(value)]
    elif isinstance(value, (set, frozenset)):
        yield [(f"element {_short(part)}", part) for part in value]
    if isinstance(value, (type, ModuleType)):
        yield [(f".{name}", part) for name, part in list(vars(value).items())]
    elif kind is not FunctionType:
        yield from _parts_of_object(value)


def _parts_of_function(function):
    names = function.__code__.co_freevars
    cells = zip(names, function.__closure__ or (), strict=True)
    yield [
        (f"closure variable {name!r}", cell.cell_contents)
        for name, cell in cells
        if _is_filled(cell)
    ]
    # imports dis (3 ms)
    from cypar.transport.captures import names_of_code

    namespace = function.__globals__
    globals_read = names_of_code(function.__code__)[0]
    yield [(f"global {n!r}", namespace[n]) for n in globals_read if n in namespace]
    defaults = function.__defaults__ or ()
    yield [(f"default value {i}", part) for i, part in enumerate(defaults)]
    keywords = function.__kwdefaults__ or {}
    yield [(f"default value of {n!r}", part) for n, part in keywords.items()]
    yield [(f".{n}", part) for n, part in function.__dict__.items()]


def _is_filled(cell):
    try:
        cell.cell_contents  # noqa: B018 (raises when it is empty)
    except ValueError:
        return False
    return True


def _parts_of_object(value):
    """What the object itself wants pickled; its attributes if it does not say."""
    try:
        attributes = dict(vars(value))
    except TypeError:  # no __dict__
        attributes = {}
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                attributes[name] = getattr(value, name)
    state = _state_of(value)
    if isinstance(state, dict):
        kept = {k: part for k, part in attributes.items() if k in state}
        yield [(f".{name}", part) for name, part in kept.items()]
        yield [(f".{_text(name)}", part) for name, part in state.items()]
    else:
        yield [(f".{name}", part) for name, part in attributes.items()]


def _state_of(value):
    """Return the state that __reduce_ex__ gives, or None."""
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # it may be what failed
        return None
    if not isinstance(reduced, tuple) or len(reduced) < 3:
        return None
    state = reduced[2]
    if isinstance(state, tuple) and len(state) == 2:  # (__dict__, slots)
        dicts = [part for part in state if isinstance(part, dict)]
        return {name: part for items in dicts for name, part in items.items()}
    return state


def _text(name):
    return name if isinstance(name, str) else _short(name)


def _short(key):
    return safe_repr(key, MAX_KEY)
