"""Bring any exception from a worker to the parent, as its own type if at all possible.

An exception and everything chained to it (cause, context, members of a group) form a
graph, possibly with cycles. Each node travels as bytes of its own, in the first of
these forms that loads again in the worker:

1. ``parts``: class, args and attributes. No user code runs: ``__init__`` may have
   other parameters than ``args``, or spoil the message when it is called again.
2. ``pickle``: for classes that define how to be pickled.
3. ``parts`` with each attribute that cannot travel replaced by its repr.
4. `RemoteError` with the type's name and the message.

Guarantees: neither function raises; ``__cause__``, ``__context__``,
``__suppress_context__`` and notes are those of the worker, and the text of the
traceback stands at the end of the chain.
"""

from __future__ import annotations

import builtins
import sys
from copyreg import _slotnames, dispatch_table  # _slotnames: as pickle finds slots

from cypar.core.errors import Completed, RemoteError, label
from cypar.core.traceback_text import (
    attach_task_traceback,
    describe_task,
    format_task_traceback,
    message_of,
    not_available,
    safe_repr,
)
from cypar.transport import settings
from cypar.transport.serialize import dumps_result, loads

MAX_NODES = 200  # exceptions in one graph
MAX_TYPE_NAME = 500  # characters
MAX_REPR = 1000  # characters that stand for an attribute that cannot travel

_PICKLE, _PARTS, _GROUP, _TEXT = range(4)
_NO_LINKS = (-1, -1, False, ())


def encode_exception(
    exc, function=None, args=(), kwargs=None, title="Sub-process traceback:"
):
    """Turn an exception that a task raised into bytes.

    Parameters
    ----------
    exc : BaseException
    function, args, kwargs : optional
        The task, for the text of the traceback.
    title : str
        First line of that text.

    Returns
    -------
    bytes
        For `decode_exception`. Never raises.
    """
    try:
        text = format_task_traceback(exc, function, args, kwargs, title)
    except BaseException as failure:  # Ctrl-C, in workers that are not ours
        text = not_available(title, failure)
    try:
        task = None if function is None else describe_task(function, args, kwargs or {})
    except BaseException:
        task = None
    try:
        found, places = _walk(exc)
        for node, _ in found:
            _drop_completed(node)
        nodes = [_encode_node(node, links, places) for node, links in found]
        return dumps_result((nodes, text, task))
    except BaseException as failure:
        # No memory, or hostile attributes; or SystemExit out of one, or out of a
        # signal's handler: the worker must not end of it.
        try:
            node = _text_node(exc, _NO_LINKS)
        except BaseException:
            name = type.__getattribute__(type(exc), "__name__")
            message = f"(cannot be described: {type(failure).__name__})"
            node = (_TEXT, b"", name, message, _NO_LINKS)
        return dumps_result(([node], text, task))


def decode_exception(data):
    """Rebuild the exception that `encode_exception` encoded.

    Returns
    -------
    BaseException
        With the worker's traceback as a `TaskTraceback` at the end of its chain, and
        labelled with function and arguments of its task.
        `RemoteError` if the exception cannot be rebuilt. Never raises, unless ``data``
        is no result of `encode_exception`.
    """
    nodes, text, task = loads(data)
    built = [None] * len(nodes)
    for index in range(len(nodes)):
        _build(index, nodes, built)
    for exc in built:
        _resolve_links(exc, built)
    for exc, (_, _, _, _, (cause, context, suppress, _)) in zip(
        built, nodes, strict=True
    ):
        write = BaseException.__setattr__  # the user's class may forbid its own
        if context >= 0:
            write(exc, "__context__", built[context])
        if cause >= 0:
            write(exc, "__cause__", built[cause])
        write(exc, "__suppress_context__", suppress)
    attach_task_traceback(built[0], text)
    if task is not None:
        label(built[0], None, *task)
    return built[0]


def clear_frames(exc):
    """Drop the variables of all frames that an exception and its chain refer to.

    Never raises.
    """
    try:
        found, _ = _walk(exc)
    except BaseException:  # hostile attributes
        return
    for node, _ in found:
        step = node.__traceback__
        while step is not None:
            try:
                step.tb_frame.clear()
                # before Python 3.13, the dict that a reader of the values has made
                # is kept; to be asked again empties it
                step.tb_frame.f_locals  # noqa: B018
            except RuntimeError:
                pass  # it still runs
            step = step.tb_next


def _drop_completed(exc):
    """Let go of the results that a call within the task had: its caller got them."""
    if type(vars(exc).get("completed")) is Completed:
        del exc.completed


# ---- the graph ---------------------------------------------------------------------


def _walk(exc):
    """Return a list of (exception, links), and the place of each id in it.

    Links are places, or -1: of the cause, the context, the members of a group.
    Exceptions that are arguments or attributes of others are listed, too. Python lets
    chains be cyclic, so each exception has one place.
    """
    order = [exc]
    places = {id(exc): 0}

    def place_of(other):
        if other is None:
            return -1
        place = places.get(id(other))
        if place is None:
            if len(order) >= MAX_NODES:
                return -1
            place = places[id(other)] = len(order)
            order.append(other)
        return place

    found = []
    for node in order:  # grows while it is walked
        members = tuple(map(place_of, _members(node)))
        links = (
            place_of(node.__cause__),
            place_of(node.__context__),
            bool(node.__suppress_context__),
            tuple(place for place in members if place >= 0),
        )
        for value in (*node.args, *vars(node).values()):
            if isinstance(value, BaseException):
                place_of(value)
        found.append((node, links))
    return found, places


def _group_class():
    """Return BaseExceptionGroup: of Python 3.11, or of the backport if it is loaded."""
    group = getattr(builtins, "BaseExceptionGroup", None)
    if group is None and "exceptiongroup" in sys.modules:
        group = getattr(sys.modules["exceptiongroup"], "BaseExceptionGroup", None)
    return group


def _members(exc):
    group = _group_class()
    return exc.exceptions if group is not None and isinstance(exc, group) else ()


# ---- encoding one exception --------------------------------------------------------
# A node is (form, bytes, name of the type, message, links).


class _Link:
    """Stands for another exception of the graph among arguments and attributes."""

    __slots__ = ("place",)

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return _Link, (self.place,)


def _encode_node(exc, links, places):
    text_node = _text_node(exc, links)
    for form, make_content in _candidates(exc, links, places):
        try:
            data = dumps_result(make_content())
            if type(_FORMS[form](loads(data), ())) is type(exc):
                return (form, data, *text_node[2:])
        except Exception:  # next form
            continue
    return text_node


def _candidates(exc, links, places):
    """Yield (form, function that returns what to pickle), the best first."""
    if links[3]:
        yield _GROUP, lambda: _group_parts(exc, _linked(places))
        yield _GROUP, lambda: _group_parts(exc, _portable)
        return
    if _pickles_itself(type(exc)):
        yield _PICKLE, lambda: exc
    yield _PARTS, lambda: _parts(exc, _linked(places))
    yield _PARTS, lambda: _parts(exc, _portable)


def _linked(places):
    """Return a function that puts links for exceptions and keeps the rest."""

    def convert(value):
        if isinstance(value, BaseException) and id(value) in places:
            return _Link(places[id(value)])
        return value

    return convert


def _text_node(exc, links):
    cls = type(exc)
    name = f"{cls.__module__}.{cls.__qualname__}"[:MAX_TYPE_NAME]
    return (_TEXT, b"", name, message_of(exc), links)


def _builtin_base(cls):
    """Return the nearest class of Python itself, which knows its C fields."""
    return next(base for base in cls.__mro__ if base.__module__ == "builtins")


def _pickles_itself(cls):
    if cls in dispatch_table or cls in settings.reducers:
        return True
    base = _builtin_base(cls)
    return any(
        getattr(cls, name, None) is not getattr(base, name, None)
        for name in ("__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
    )


def _parts(exc, convert):
    """Return (class, builtin base, args, attributes)."""
    cls = type(exc)
    base = _builtin_base(cls)
    reduced = base.__reduce__(exc)
    state = dict(reduced[2]) if len(reduced) > 2 and reduced[2] else {}
    for name in _slotnames(cls):
        if hasattr(exc, name):
            state[name] = getattr(exc, name)
    args = tuple(map(convert, reduced[1]))
    return cls, base, args, {name: convert(value) for name, value in state.items()}


def _portable(value):
    try:
        loads(dumps_result(value))
    except Exception:
        return safe_repr(value, MAX_REPR)
    return value


def _group_parts(exc, convert):
    state = {name: convert(value) for name, value in vars(exc).items()}
    return type(exc), exc.message, state


# ---- rebuilding one exception ------------------------------------------------------


def _build(index, nodes, built):
    """Build node ``index`` and, before it, the members of a group."""
    if built[index] is not None:
        return
    form, data, name, message, links = nodes[index]
    for member in links[3]:
        if member > index:  # a group is listed before its members; no cycle that way
            _build(member, nodes, built)
    members = [built[member] for member in links[3] if built[member] is not None]
    try:
        if form != _TEXT:
            built[index] = _FORMS[form](loads(data), members)
    except Exception as error:
        message = f"{message} (cannot be rebuilt here: {error!r})"
    if not isinstance(built[index], BaseException):
        built[index] = RemoteError(f"{name}: {message}", name)


def _from_pickle(loaded, members):
    return loaded


def _from_parts(parts, members):
    cls, base, args, state = parts
    exc = _allocate(cls, base, args)
    base.__init__(exc, *args)
    _set_state(exc, state)
    return exc


def _allocate(cls, base, args):
    for new, arguments in ((cls.__new__, args), (base.__new__, args)):
        try:
            return new(cls, *arguments)
        except Exception:  # a __new__ of the user's with other parameters
            continue
    return BaseException.__new__(cls)


def _from_group(parts, members):
    cls, message, state = parts
    group = _group_class()
    if not members:  # the trial in the worker; the kind of member decides the type
        kind = RemoteError if issubclass(cls, Exception) else BaseException
        members = [kind("placeholder")]
    try:
        exc = cls.__new__(cls, message, members)
    except Exception:  # a __new__ with other parameters
        exc = group.__new__(cls, message, members)
    exc.args = (message, members)
    _set_state(exc, state)
    return exc


def _resolve_links(exc, built):
    if any(isinstance(value, _Link) for value in exc.args):
        exc.args = tuple(
            built[value.place] if isinstance(value, _Link) else value
            for value in exc.args
        )
    linked = {
        name: built[value.place]
        for name, value in vars(exc).items()
        if isinstance(value, _Link)
    }
    _set_state(exc, linked)


def _set_state(exc, state):
    for name, value in state.items():
        try:
            object.__setattr__(exc, name, value)
        except AttributeError:  # a property without a setter hides the attribute
            exc.__dict__[name] = value


_FORMS = {_PICKLE: _from_pickle, _PARTS: _from_parts, _GROUP: _from_group}
