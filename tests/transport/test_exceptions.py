"""transport/exceptions: any exception comes back as its own type."""

import asyncio
import json
import subprocess
import sys
import threading
import types
import urllib.error

import pytest

from cypar.core.errors import RemoteError, WorkerCrash
from cypar.transport import importable
from cypar.transport.exceptions import decode_exception, encode_exception
from cypar.transport.serialize import dumps

# As if defined in a script, whatever pytest put on sys.path.
importable.distrust(__name__)


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


def test_what_cannot_be_rebuilt_here_is_a_remote_error(monkeypatch):
    class Elsewhere(Exception):
        def __reduce__(self):
            return eval, ("__import__('only_in_the_worker').error",)

    module = types.ModuleType("only_in_the_worker")
    module.error = Elsewhere("the message")
    with monkeypatch.context() as worker:
        worker.setitem(sys.modules, module.__name__, module)
        data = encode_exception(Elsewhere("the message"))
        assert type(decode_exception(data)) is Elsewhere
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
