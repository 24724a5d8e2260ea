"""transport/culprit: the message for a task that cannot be pickled."""

import functools
import pickle
import sys
import threading
import time

import numpy as np
import pytest

from cypar.core.errors import CyparError, TaskPicklingError
from cypar.transport import culprit
from cypar.transport.culprit import explain
from cypar.transport.serialize import dumps

LOCK = threading.Lock()
CANNOT = "cannot pickle '_thread.lock' object"


class Client:
    def __init__(self):
        self.name = "client"
        self._lock = threading.Lock()

    def call(self):
        return self.name


class Callback:
    def __init__(self):
        self.client = Client()


def task(x, cb=None, *rest, option=None):
    return x


def closure(value):
    return lambda: value


class Slots:
    __slots__ = ("a", "b")

    def __init__(self):
        self.a = 1
        self.b = threading.Lock()


class HidesLock:
    def __init__(self):
        self.lock = threading.Lock()
        self.client = Client()

    def __getstate__(self):
        return {"client": self.client}


def message(function, *args, **kwargs):
    with pytest.raises(Exception) as caught:  # noqa: PT011 (many kinds of it)
        dumps((function, args, kwargs))
    explained = explain(3, function, args, kwargs, caught.value)
    assert explained.__cause__ is caught.value
    return str(explained)


def test_message_names_task_argument_and_path_and_gives_the_cure():
    assert message(task, 1, Callback()) == (
        f"task 3, argument 'cb' -> .client._lock: {CANNOT}. "
        'Use prefer="threads", which pickles nothing, or build that object inside the '
        "task or in a worker initializer."
    )


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "place"),
    [
        (task, (LOCK,), {}, "argument 'x'"),
        (task, (1,), {"option": LOCK}, "argument 'option'"),
        (task, (1, 2, 3, LOCK), {}, "argument 'rest'[1]"),
        (task, ([0, {"k": (LOCK,)}],), {}, "argument 'x' -> [1]['k'][0]"),
        (task, ({LOCK: 1},), {}, "argument 'x' -> key <unlocked _thr"),
        (task, ({LOCK},), {}, "argument 'x' -> element <unlocked _thr"),
        (task, (Slots(),), {}, "argument 'x' -> .b"),
        (task, (HidesLock(),), {}, "argument 'x' -> .client._lock"),
        (min, (LOCK, 1), {}, "argument 0"),
        (
            closure([LOCK]),
            (),
            {},
            "function 'closure.<locals>.<lambda>' -> closure var",
        ),
        (Client().call, (), {}, "function 'Client.call' -> .__self__._lock"),
        (functools.partial(task, LOCK), (), {}, "function 'partial' -> .args[0]"),
        (
            functools.partial(task, x=LOCK),
            (),
            {},
            "function 'partial' -> .keywords['x']",
        ),
        (task, (sys._getframe(),), {}, "argument 'x'"),
    ],
)
def test_places(function, args, kwargs, place):
    assert message(function, *args, **kwargs).startswith(f"task 3, {place}")


def test_large_arrays_beside_it_are_not_blamed():
    array = np.ones(1 << 18)
    text = message(task, array, LOCK)
    assert text.startswith(f"task 3, argument 'cb': {CANNOT}")


def test_globals_of_functions():
    namespace = {"__name__": "__main__", "LOCK": LOCK}
    exec("def f():\n    return g()\ndef g():\n    return LOCK", namespace)
    assert "function 'f' -> global 'g' -> global 'LOCK': " in message(namespace["f"])


def test_default_values():
    namespace = {"__name__": "__main__", "LOCK": LOCK}
    exec("def f(a=LOCK): pass\ndef g(*, b=LOCK): pass", namespace)
    assert "function 'f' -> default value 0: " in message(namespace["f"])
    assert "function 'g' -> default value of 'b': " in message(namespace["g"])


def test_error_is_also_a_pickling_error_and_knows_the_task():
    explained = explain(7, task, (LOCK,), {}, TypeError("no"))
    assert isinstance(explained, (TaskPicklingError, pickle.PicklingError, CyparError))
    assert explained.task_index == 7


class FailingState:
    def __getstate__(self):
        raise RuntimeError("no state")


class FailingReduce:
    def __reduce__(self):
        raise KeyError("no reduce")

    def __repr__(self):
        raise ValueError


class FailingAttributes:
    def __getattribute__(self, name):
        raise RuntimeError(f"no {name}")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([FailingState()], "argument 'x' -> [0]: RuntimeError: no state. Use"),
        ({FailingReduce(): 1}, "argument 'x' -> key <FailingReduce object, "),
        ([FailingAttributes()], "argument 'x' -> [0]: RuntimeError: no "),
    ],
)
def test_objects_that_fail_when_asked(value, text):
    assert text in message(task, value)


def test_cycles_end():
    first, second = Callback(), Callback()
    del first.client, second.client
    first.me, first.other, second.back = first, second, first
    second.work = (n for n in ())
    text = message(task, first)
    assert "argument 'x' -> .other.work: cannot pickle 'generator' object" in text
    items = [1]
    items += [items, threading.Lock()]
    assert "argument 'x' -> [2]: " in message(task, items)


def test_paths_that_only_lead_back_are_not_blamed():
    root, innocent = Callback(), Callback()
    del innocent.client
    innocent.back = root
    root.__dict__ = {"a": innocent, "b": innocent, "c": threading.Lock()}
    assert "argument 'x' -> .c: " in message(task, root)


def test_long_lists_are_halved(monkeypatch):
    monkeypatch.setattr(culprit, "MAX_PROBES", 40)
    assert "argument 'x' -> [100000]: " in message(task, [*range(100_000), LOCK])


def test_search_is_bounded_in_depth_and_time(monkeypatch):
    deep = LOCK
    for _ in range(50):
        deep = [deep]
    assert message(task, deep).count("[0]") == culprit.MAX_DEPTH
    monkeypatch.setattr(culprit, "MAX_SECONDS", 0.0)
    start = time.monotonic()
    text = message(task, deep)
    assert time.monotonic() - start < 1
    assert text.startswith(f"task 3: {CANNOT}")


def test_error_that_does_not_come_again_is_passed_on():
    assert str(explain(1, task, (1,), {}, ValueError("once"))).startswith(
        "task 1: ValueError: once. Use"
    )
