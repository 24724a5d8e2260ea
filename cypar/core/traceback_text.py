"""The traceback of a failed task as text, with the values of the parameters.

A traceback object cannot leave its process and does not hold arguments, so the worker
writes down what a reader needs: the frames from the task's function on, how each was
called, and the lines around the error. The same text serves tasks in threads.

Nothing here raises but Ctrl-C: an object whose repr() fails is shown by its type.
"""

from __future__ import annotations

import os
import sys
import time
from itertools import islice
from reprlib import Repr

from cypar.core.errors import TaskTraceback, label
from cypar.core.interrupts import is_ctrl_c

WIDTH = 75  # columns of the rulers
CONTEXT_LINES = 5  # source lines before and after the failing one
MAX_VALUE = 200  # characters of one parameter's value
MAX_ARGUMENTS = 500  # characters of a task's arguments that its exception knows
MAX_FRAMES = 20  # half of them from each end, as for endless recursion
MAX_MESSAGE = 10_000  # characters of the error's own text
MAX_CHAIN = 5  # chained exceptions that are shown, the task's own one included
MAX_TEXT = 100_000  # characters in all
MAX_TASK_TRACEBACKS = 3  # texts in one chain; an exception object may be raised again
SMALL_ARRAY = 20  # elements; larger arrays are shown by shape and dtype

# Modules of cypar between the user's call and the task's function
_OWN_MODULES = ("cypar.core.", "cypar.transport.", "cypar.backends.")
_OWN_FILES = frozenset(("cypar.parallel", "cypar.results", "cypar.progress"))
_CAUSE = "The error above was the direct cause of the following one:"
_CONTEXT = "While the error above was handled, the following one occurred:"


def format_task_traceback(
    exc, function=None, args=(), kwargs=None, title="Task traceback:"
):
    """Describe an exception that a task raised.

    Parameters
    ----------
    exc : BaseException
        With its ``__traceback__``.
    function : callable, optional
        The task's function. If no frame of it is in the traceback, as for functions
        written in C, the call is shown from ``args`` and ``kwargs``.
    args, kwargs : tuple and dict, optional
        What it was called with.
    title : str
        First line.

    Returns
    -------
    str
        At most 100,000 characters. Never raises, unless Ctrl-C comes.
    """
    try:
        text = _format(exc, function, args, kwargs or {}, title)
    except BaseException as failure:
        if is_ctrl_c(failure):
            raise
        text = not_available(title, failure)
    return text if len(text) <= MAX_TEXT else _cut(text, MAX_TEXT)


def not_available(title, failure):
    """Return what stands for the text where `format_task_traceback` failed."""
    return f"{title} not available ({type(failure).__name__} while formatting it)"


def attach_task_traceback(exc, text):
    """Put ``text`` at the end of the exception's cause chain.

    The user's own ``__cause__``, ``__context__`` and notes stay as they are. In a
    chain that has no end the text becomes a note.

    Parameters
    ----------
    exc : BaseException
    text : str
        From `format_task_traceback`.
    """
    seen = set()
    written = []
    last = exc
    while True:
        seen.add(id(last))
        if isinstance(last, TaskTraceback):
            written.append(last)
        following = _displayed_cause(last)
        if following is None:
            break
        if id(following) in seen:
            add_note(exc, text)
            return
        last = following
    if len(written) >= MAX_TASK_TRACEBACKS:
        written[-1].args = (text,)
    elif last is not None:
        # not by setattr: the user's class may forbid that
        BaseException.__setattr__(last, "__cause__", TaskTraceback(text))


def safe_repr(value, limit=MAX_VALUE):
    """Return at most ``limit`` characters that describe a value; never raise.

    Large containers and arrays are not walked through.
    """
    try:
        text = _repr.repr(value)
    except BaseException as failure:  # user code; even SystemExit must not get out
        if is_ctrl_c(failure):
            raise
        name = type(value).__name__
        text = f"<{name} object, repr() raised {type(failure).__name__}>"
    return text if len(text) <= limit else _cut(text, limit)


def message_of(exc, limit=MAX_MESSAGE):
    """Return ``str(exc)``, shortened; never raise."""
    try:
        text = str(exc)
    except BaseException as failure:
        if is_ctrl_c(failure):
            raise
        text = f"<str() raised {type(failure).__name__}>"
    return text if len(text) <= limit else _cut(text, limit)


def describe_call(function, args, kwargs):
    """Return ``name(parameter=value, ...)`` for a call; never raise."""
    name = getattr(function, "__name__", None)
    if not isinstance(name, str):
        name = type(function).__name__
    return f"{name}({_format_arguments(_bind(function, args, kwargs))})"


def describe_task(function, args, kwargs, limit=MAX_ARGUMENTS):
    """Return (qualified name, text of the arguments) of a task; never raise."""
    try:
        name = getattr(function, "__qualname__", None)
    except Exception:  # a property of the user's
        name = None
    if not isinstance(name, str):
        name = type(function).__qualname__
    return name, _cut(_format_arguments(_bind(function, args, kwargs)), limit)


def label_with_task(exc, index, task):
    """Let an exception know its task, (function, args, kwargs); see `errors.label`."""
    label(exc, index, *describe_task(*task))


# ---- values ------------------------------------------------------------------------


class _ShortRepr(Repr):
    """reprlib's Repr, which also avoids printing what is only large."""

    def __init__(self):
        super().__init__()
        self.maxlevel = 4
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 12
        self.maxdeque = self.maxarray = 12
        self.maxstring = self.maxlong = self.maxother = MAX_VALUE

    def repr_instance(self, value, level):
        shape = getattr(value, "shape", None)
        if isinstance(shape, tuple) and shape and not _is_small(shape):
            dtype = getattr(value, "dtype", None)
            ending = "" if dtype is None else f", dtype={dtype}"
            return f"<{type(value).__name__} shape={shape}{ending}>"
        if not shape and _length(value) > MAX_VALUE:
            return f"<{type(value).__name__} of length {_length(value)}>"
        return _cut(repr(value), self.maxother)

    def repr_dict(self, value, level):
        """Like the base class, which first sorts all keys."""
        pairs = (
            f"{self.repr1(key, level - 1)}: {self.repr1(item, level - 1)}"
            for key, item in islice(value.items(), self.maxdict)
        )
        return self._enclose("{", pairs if level else (), value, self.maxdict, "}")

    def repr_set(self, value, level):
        items = (self.repr1(item, level - 1) for item in islice(value, self.maxset))
        opening, closing = ("{", "}") if type(value) is set else ("frozenset({", "})")
        if not value:
            return f"{type(value).__name__}()"
        return self._enclose(
            opening, items if level else (), value, self.maxset, closing
        )

    def _enclose(self, opening, texts, value, limit, closing):
        texts = list(texts)
        if len(value) > len(texts):
            texts.append("...")
        return opening + ", ".join(texts) + closing

    repr_frozenset = repr_set
    repr_ndarray = repr_DataFrame = repr_Series = repr_instance  # noqa: N815


def _is_small(shape):
    size = 1
    for length in shape:
        size *= length
    return size <= SMALL_ARRAY


def _length(value):
    try:
        return len(value)
    except Exception:  # no length, or a __len__ that fails
        return 0


def _cut(text, limit):
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


_repr = _ShortRepr()


def _format_arguments(pairs):
    return ", ".join(f"{name}={safe_repr(value)}" for name, value in pairs)


def _bind(function, args, kwargs):
    """Pair parameter names with values; positions stand in where there is no name."""
    try:
        from inspect import signature  # 13 ms, only after a C function has failed

        bound = signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        return list(bound.arguments.items())
    except BaseException as failure:  # no signature, or the call does not fit it
        if is_ctrl_c(failure):
            raise
        pairs = [(f"argument {i}", value) for i, value in enumerate(args)]
        return pairs + list(kwargs.items())


# ---- frames ------------------------------------------------------------------------


def _format(exc, function, args, kwargs, title):
    name = type(exc).__name__
    python = "Python {}.{}.{}: ".format(*sys.version_info) + sys.executable
    pid = f"PID: {os.getpid()}"
    lines = [
        "-" * WIDTH,
        title,
        "-" * WIDTH,
        name + time.asctime().rjust(WIDTH - len(name)),
        pid + python.rjust(WIDTH - len(pid)),
    ]
    for link, earlier in _chain_before(exc):
        lines += _format_frames(_user_frames(earlier, None))
        lines += [_summary(earlier), "", link, ""]
    lines.append("." * WIDTH)
    frames = _user_frames(exc, function)
    if not _starts_in(frames, function):
        lines.append(f"{_file_of(function)} in {describe_call(function, args, kwargs)}")
    lines += _format_frames(frames)
    lines += [_summary(exc), "_" * WIDTH]
    return "\n".join(lines)


def _summary(exc):
    cls = type(exc)
    name = cls.__qualname__
    if cls.__module__ not in ("builtins", "__main__"):
        name = f"{cls.__module__}.{name}"
    text = message_of(exc)
    lines = [f"{name}: {text}" if text else name]
    members = getattr(exc, "exceptions", None)  # of an exception group
    if isinstance(members, tuple):
        for member in members[:MAX_CHAIN]:
            lines.append(f"  + {type(member).__qualname__}: {message_of(member, 500)}")
    return "\n".join(lines)


def _displayed_cause(exc):
    """Return what Python would print before ``exc``, or None."""
    if exc.__cause__ is not None:
        return exc.__cause__
    return None if exc.__suppress_context__ else exc.__context__


def _chain_before(exc):
    """List (sentence, exception) for chained exceptions, the oldest first."""
    found = []
    seen = {id(exc)}
    while len(found) < MAX_CHAIN - 1:
        link = _CAUSE if exc.__cause__ is not None else _CONTEXT
        exc = _displayed_cause(exc)
        if exc is None or id(exc) in seen or isinstance(exc, TaskTraceback):
            break
        seen.add(id(exc))
        found.append((link, exc))
    return found[::-1]


def _user_frames(exc, function):
    """List (frame, line number) without cypar's own, from the task's function on."""
    frames = []
    step = exc.__traceback__
    while step is not None:
        if not _is_own(step.tb_frame):
            frames.append((step.tb_frame, step.tb_lineno))
        step = step.tb_next
    code = _code_of(function)
    for position, (frame, _) in enumerate(frames):
        if frame.f_code is code:
            return frames[position:]
    return frames


def _is_own(frame):
    name = frame.f_globals.get("__name__")
    if not isinstance(name, str):
        return False
    return name.startswith(_OWN_MODULES) or name in _OWN_FILES


def _code_of(function):
    function = getattr(function, "__func__", function)
    return getattr(function, "__code__", None)


def _starts_in(frames, function):
    if function is None:
        return True
    return bool(frames) and frames[0][0].f_code is _code_of(function)


def _file_of(function):
    module = getattr(function, "__module__", None)
    return module if isinstance(module, str) else "builtins"


def _format_frames(frames):
    lines = []
    half = MAX_FRAMES // 2
    for position, (frame, line_number) in enumerate(frames):
        if len(frames) > MAX_FRAMES and half <= position < len(frames) - half:
            if position == half:
                lines.append(f"... {len(frames) - 2 * half} more calls ...")
            continue
        lines += _format_frame(frame, line_number)
    return lines


def _format_frame(frame, line_number):
    code = frame.f_code
    arguments = _format_arguments(_parameters(frame))
    heading = f"{code.co_filename} in {code.co_name}({arguments})"
    source = _source_lines(frame, line_number)
    if not source:
        return [heading, f"--> {line_number} (source not available)", ""]
    return [heading, *source, ""]


def _parameters(frame):
    """Pair the frame's parameters with their values of now."""
    code = frame.f_code
    values = frame.f_locals
    n_named = code.co_argcount + code.co_kwonlyargcount
    has_args = bool(code.co_flags & 0x04)
    has_kwargs = bool(code.co_flags & 0x08)
    # the code has *args behind the keyword-only ones; a signature before them
    names = [
        *code.co_varnames[: code.co_argcount],
        *code.co_varnames[n_named : n_named + has_args],
        *code.co_varnames[code.co_argcount : n_named],
        *code.co_varnames[n_named + has_args : n_named + has_args + has_kwargs],
    ]
    # a parameter may have been deleted by the function
    return [(name, values[name]) for name in names if name in values]


def _source_lines(frame, line_number):
    from linecache import getlines  # 7 ms, needed only by failing tasks

    if not isinstance(line_number, int):  # bytecode without a line
        return []
    try:
        source = getlines(frame.f_code.co_filename, frame.f_globals)
    except Exception:  # a broken loader or an undecodable file
        return []
    first = max(line_number - CONTEXT_LINES, 1)
    lines = []
    for number in range(first, min(line_number + CONTEXT_LINES, len(source)) + 1):
        prefix = f"--> {number}" if number == line_number else str(number)
        lines.append(f"{prefix:>7} {_cut(source[number - 1].rstrip(), 500)}".rstrip())
    return lines if first <= line_number <= len(source) else []


def add_note(exc, text):
    """Do what ``exc.add_note(text)`` does from Python 3.11 on."""
    notes = getattr(exc, "__notes__", None)
    if not isinstance(notes, list):
        notes = []
        exc.__notes__ = notes
    notes.append(text)
