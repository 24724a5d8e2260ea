"""transport/exceptions: any exception comes back as its own type."""

import asyncio
import builtins
import json
import subprocess
import threading
import urllib.error

import pytest

from cypar.core.errors import RemoteError, TaskTraceback, WorkerCrash
from cypar.transport import importable
from cypar.transport.exceptions import MAX_NODES, decode_exception, encode_exception
from cypar.transport.serialize import dumps

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


class KeywordOnly(ValueError):
    def __init__(self, *, code):
        self.code = code


class OwnOSError(OSError):
    def __init__(self, path, reason):
        super().__init__(2, reason, path)
        self.reason = reason


class NewWithArguments(Exception):
    def __new__(cls, a, b):
        return super().__new__(cls, a)

    def __init__(self, a, b):
        self.b = b


class FailingInit(Exception):
    armed = False

    def __init__(self, text):
        if FailingInit.armed:
            raise RuntimeError("called again")
        super().__init__(text)


class WithSlots(Exception):
    __slots__ = ("code",)

    def __init__(self, code):
        self.code = code


class ReadOnly(Exception):
    @property
    def code(self):
        return vars(self)["code"]


class OwnReduce(Exception):
    def __init__(self, a, b):
        super().__init__(a, b)

    def __reduce__(self):
        return OwnReduce, (self.args[0], "again")


class FailingReduce(Exception):
    def __reduce__(self):
        raise ZeroDivisionError


def same(exc):
    back = travel(exc)
    assert type(back) is type(exc)
    assert back.args == exc.args
    assert str(back) == str(exc)
    return back


# ---- one exception ------------------------------------------------------------


@pytest.mark.parametrize(
    "exc",
    [
        ValueError(),
        KeyError("k"),
        KeyboardInterrupt(),
        SystemExit(3),
        GeneratorExit(),
        StopIteration(4),
        FileNotFoundError(2, "No such file", "name"),
        UnicodeDecodeError("utf8", b"a", 0, 1, "reason"),
        SyntaxError("bad", ("file", 1, 2, "text")),
        asyncio.CancelledError(),
        subprocess.CalledProcessError(1, "command", "output"),
        urllib.error.HTTPError("url", 404, "missing", None, None),
        WorkerCrash("gone", 1, "f", -9, 2),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_exceptions_of_python_and_libraries(exc):
    same(exc)


def test_fields_that_are_kept_in_c():
    back = same(ImportError("x", name="n", path="p"))
    assert (back.name, back.path) == ("n", "p")
    assert same(SystemExit(3)).code == 3
    assert same(StopIteration(4)).value == 4
    back = same(FileNotFoundError(2, "No such file", "a", None, "b"))
    assert (back.errno, back.filename, back.filename2) == (2, "a", "b")
    with pytest.raises(ValueError, match="Expecting") as caught:
        json.loads("{")
    assert same(caught.value).pos == 1


@pytest.mark.parametrize(
    ("exc", "attributes"),
    [
        (TwoArguments(1, 2), {"a": 1, "b": 2}),
        (KeywordOnly(code=3), {"code": 3}),
        (OwnOSError("p", "r"), {"reason": "r", "filename": "p", "errno": 2}),
        (NewWithArguments(1, 2), {"b": 2}),
        (WithSlots(4), {"code": 4}),
        (FailingReduce("x"), {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_constructors_with_other_arguments(exc, attributes):
    back = same(exc)
    for name, value in attributes.items():
        assert getattr(back, name) == value


def test_constructors_are_not_called_again():
    data = encode_exception(FailingInit("once"))
    FailingInit.armed = True
    try:
        back = decode_exception(data)
    finally:
        FailingInit.armed = False
    assert type(back) is FailingInit
    assert str(back) == "once"


def test_own_reduce_is_respected():
    assert travel(OwnReduce(1, 2)).args == (1, "again")


def test_attribute_under_a_read_only_property():
    exc = ReadOnly("x")
    vars(exc)["code"] = 5
    assert same(exc).code == 5


def test_members_that_cannot_travel_become_their_repr():
    exc = ValueError("x", threading.Lock())
    exc.lock = threading.Lock()
    exc.code = 5
    back = travel(exc)
    assert type(back) is ValueError
    assert back.args[0] == "x"
    assert "lock" in back.args[1]
    assert "lock" in back.lock
    assert back.code == 5


def test_exceptions_inside_exceptions():
    inner = TwoArguments(1, 2)
    outer = ValueError(inner)
    outer.inner = inner
    outer.me = outer
    back = travel(outer)
    assert type(back.inner) is TwoArguments
    assert back.args == (back.inner,)
    assert back.me is back


def test_notes_survive():
    exc = ValueError("x")
    exc.__notes__ = ["one", "two"]
    assert travel(exc).__notes__ == ["one", "two"]


def test_local_classes_survive():
    class Local(ValueError):
        def __init__(self, *, a):
            super().__init__(a)

    assert type(travel(Local(a=1))) is Local


class Hostile(Exception):
    def __getattribute__(self, name):
        raise RuntimeError(name)

    def __str__(self):
        raise RuntimeError("str")


def test_what_cannot_be_rebuilt_is_a_remote_error():
    back = travel(Hostile("x"))
    assert type(back) is RemoteError
    assert back.type_name.endswith(".Hostile")
    assert "Hostile" in str(back)


def test_what_cannot_be_rebuilt_here_is_a_remote_error():
    class Gone(Exception):
        def __reduce__(self):
            return here, ("text",)

    def here(text):
        if armed:
            raise LookupError("only there")
        return Gone(text)

    armed = []
    data = encode_exception(Gone("the message"))
    assert type(decode_exception(data)) is Gone

    class Elsewhere(Exception):
        def __reduce__(self):
            return eval, ("__import__('not_here').error",)

    # a module that is there for the trial in the worker, and not in the parent
    import sys
    import types

    module = types.ModuleType("not_here")
    module.error = Elsewhere("the message")
    sys.modules["not_here"] = module
    try:
        data = encode_exception(Elsewhere("the message"))
    finally:
        del sys.modules["not_here"]
    back = decode_exception(data)
    assert type(back) is RemoteError
    assert "the message (cannot be rebuilt here: ModuleNotFoundError" in str(back)


def test_huge_messages():
    class Shout(Exception):
        def __reduce__(self):
            raise ValueError

        def __str__(self):
            return "x" * 10**7

    assert len(encode_exception(Shout())) < 50_000
    exc = ValueError("x" * 10**6)
    assert len(str(travel(exc))) == 10**6  # the user's own arguments are not cut


# ---- chains and groups --------------------------------------------------------


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


# ---- between processes --------------------------------------------------------

RAISE = """
from cypar.transport.exceptions import encode_exception
function, args = loads(sent)
try:
    function(*args)
except BaseException as exc:
    answer = encode_exception(exc, function, args, {})
"""


def fail_with_two(a, b):
    raise TwoArguments(a, b)


def test_exception_class_of_main_comes_back_as_the_same_class(in_worker):
    data = in_worker(dumps((fail_with_two, (1, "b"))), RAISE)
    back = decode_exception(data)
    assert type(back) is TwoArguments
    assert (back.a, back.b) == (1, "b")
    assert "in fail_with_two(a=1, b='b')" in str(back.__cause__)


def test_exception_class_of_the_worker_only(in_worker):
    def fail():
        class Local(KeyError):
            pass

        raise Local("text")

    back = decode_exception(in_worker(dumps((fail, ())), RAISE))
    assert isinstance(back, KeyError)
    assert type(back).__name__ == "Local"
