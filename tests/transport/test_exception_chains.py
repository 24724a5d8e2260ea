"""transport/exceptions: chains, notes and groups come back as they were."""

import builtins

import pytest

from cypar.core.errors import TaskTraceback
from cypar.transport import importable
from cypar.transport.exceptions import MAX_NODES, decode_exception, encode_exception

# As if defined in a script, whatever pytest put on sys.path.
importable.distrust(__name__)

ExceptionGroup = getattr(builtins, "ExceptionGroup", None)
needs_groups = pytest.mark.skipif(
    ExceptionGroup is None, reason="exception groups came with Python 3.11"
)


def travel(exc, *task):
    return decode_exception(encode_exception(exc, *task))


class TwoArguments(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a}-{b}")
        self.a = a
        self.b = b


def test_cause_context_and_suppress_survive():
    def fail():
        try:
            try:
                raise TwoArguments(1, 2)
            except TwoArguments as error:
                raise KeyError("middle") from error
        except KeyError:
            raise OSError("outer") from None

    with pytest.raises(OSError, match="outer") as caught:
        fail()
    back = travel(caught.value)
    assert back.__suppress_context__
    assert type(back.__context__) is KeyError
    assert type(back.__context__.__cause__) is TwoArguments
    assert back.__context__.__cause__.b == 2


def test_traceback_is_put_at_the_end_of_the_chain():
    exc = ValueError("x")
    exc.__cause__ = KeyError("y")
    back = travel(exc, len, (5,), {})
    text = back.__cause__.__cause__
    assert type(text) is TaskTraceback
    assert "Sub-process traceback:" in str(text)
    assert "len(obj=5)" in str(text)


def test_cyclic_chains():
    first, second = ValueError(1), KeyError(2)
    first.__cause__ = second
    second.__context__ = first
    back = travel(first)
    assert back.__cause__.__context__ is back
    assert "traceback" in back.__notes__[0]


def test_long_chains_are_cut():
    exc = ValueError(0)
    for number in range(MAX_NODES + 50):
        following = ValueError(number)
        following.__context__ = exc
        exc = following
    back = travel(exc)
    length = 0
    while back is not None and not isinstance(back, TaskTraceback):
        length += 1
        back = back.__cause__ or back.__context__
    assert length == MAX_NODES


@needs_groups
def test_groups_with_chains_and_notes():
    inner = ExceptionGroup("inner", [KeyError(2)])
    group = ExceptionGroup("outer", [TwoArguments(1, 2), inner])
    group.exceptions[0].__cause__ = OSError(3)
    group.add_note("note")
    back = travel(group)
    assert type(back) is ExceptionGroup
    assert back.message == "outer"
    assert back.__notes__ == ["note"]
    first, second = back.exceptions
    assert type(first) is TwoArguments
    assert type(first.__cause__) is OSError
    assert repr(second) == repr(inner)
    assert back.split(KeyError)[0] is not None


@needs_groups
def test_groups_with_a_constructor_of_their_own():
    class Own(ExceptionGroup):
        def __new__(cls, exceptions, code):
            made = super().__new__(cls, "own", exceptions)
            made.code = code
            return made

        def __init__(self, exceptions, code):
            pass

    back = travel(Own([ValueError(1)], 7))
    assert type(back) is Own
    assert back.code == 7
    assert repr(back.exceptions) == "(ValueError(1),)"


@needs_groups
def test_groups_of_base_exceptions():
    group = builtins.BaseExceptionGroup("g", [KeyboardInterrupt(), SystemExit(2)])
    back = travel(group)
    assert type(back) is type(group)
    assert back.exceptions[1].code == 2
