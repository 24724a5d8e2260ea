"""transport/functions: what is sent once, what at every draw, and what is noticed."""

import functools
import gc
import json
import math
import operator
import weakref

import numpy as np
import pytest

from cypar.transport import functions, importable, settings
from cypar.transport.functions import FunctionTable, decode
from cypar.transport.serialize import loads, register_reducer, set_pickler

# As if defined in a script, whatever pytest put on sys.path.
importable.distrust(__name__)


def work(x):
    return x + helper(x)


def helper(x):
    return 10 * x


class Worker:
    def __init__(self, n=1):
        self.n = n

    def run(self, x):
        return self.n * x

    @classmethod
    def make(cls, n):
        return cls(n)


# ---- what is pickled once -------------------------------------------------------


def closure(value):
    return lambda: value


CONSTANT = {
    "builtin": math.sqrt,
    "function by name": json.dumps,
    "class by name": json.JSONDecoder,
    "ufunc": np.add,
    "numpy function": np.sum,
    "class method by name": dict.fromkeys,
    "method descriptor": str.upper,
    "function by value": work,
    "lambda": lambda x: x,
    "closure over an int": closure(3),
    "closure over a tuple": closure((1, ("a", 2.0))),
    "closure over a module": closure(json),
    "closure over a function": closure(work),
    "closure over a class by name": closure(json.JSONDecoder),
    "partial": functools.partial(work, 3),
    "cached function": functools.lru_cache(work),
}


@pytest.mark.parametrize("function", CONSTANT.values(), ids=CONSTANT)
def test_constant_functions_are_pickled_once(table, function):
    ref = table.encode(function)
    assert not ref.mutable
    assert table.encode(function) is ref
    assert type(decode(ref.blob)) is type(function)


def test_by_name_functions_are_small(table):
    assert decode(table.encode(json.dumps).blob) is json.dumps
    assert len(table.encode(json.dumps).blob) < 80


def test_helpers_travel_with_the_function(table, in_worker):
    body = "from cypar.transport.functions import decode\n"
    body += "answer = dumps_result(decode(sent)(2))"
    assert loads(in_worker(table.encode(work).blob, body)) == 22


# ---- what is pickled at every draw ----------------------------------------------

MUTABLE = {
    "closure over a list": closure([1]),
    "closure over a dict": closure({}),
    "closure over an object": closure(Worker()),
    "closure over a class by value": closure(Worker),
    "closure over a tuple with a list": closure(([],)),
    "closure over an array": closure(np.zeros(2)),
    "bound method": Worker().run,
    "class method of a class by value": Worker.make,
    "partial with a list": functools.partial(work, []),
    "partial with a dict by name": functools.partial(work, x={}),
    "class by value": Worker,
    "object with a call": operator.itemgetter([1]),
    "method of a list": [].append,
}


@pytest.mark.parametrize("function", MUTABLE.values(), ids=MUTABLE)
def test_functions_with_mutable_parts_are_marked(table, function):
    ref = table.encode(function)
    assert ref.mutable
    decode(ref.blob)


def test_equal_bytes_give_the_same_ref(table):
    function = closure([1])
    assert table.encode(function) is table.encode(function)
    worker = Worker()
    assert table.encode(worker.run) is table.encode(worker.run)


def test_defaults_and_attributes_count():
    def default(x=[]):  # noqa: B006
        return x

    def keyword(*, x={}):  # noqa: B006
        return x

    def attribute():
        return attribute.x

    attribute.x = []
    for function in (default, keyword, attribute):
        assert FunctionTable().encode(function).mutable


@pytest.mark.parametrize(
    "text",
    [
        "n = 0\ndef f():\n    global n\n    n += 1\n    return n",
        "def g():\n  n = 0\n  def f():\n    nonlocal n\n    n += 1\n    return n\n"
        "  return f\nf = g()",
    ],
    ids=["global", "nonlocal"],
)
def test_functions_that_rebind_captures_get_a_fresh_copy(table, main_function, text):
    function, _ = main_function(text)
    ref = table.encode(function)
    assert ref.mutable
    assert [decode(ref.blob)() for _ in range(3)] == [1, 1, 1]


def test_variables_of_the_call_itself_do_not_count(table):
    def count():
        n = 0

        def up():
            nonlocal n
            n += 1

        up()
        return n

    assert not table.encode(count).mutable


# ---- the memory -------------------------------------------------------------------


def test_reused_ids_do_not_fool_it(table):
    for n in range(300):
        namespace = {}
        exec(f"def f():\n    return {n}", namespace)
        function = namespace.pop("f")
        assert decode(table.encode(function).blob)() == n
        del function


def test_functions_are_not_kept_alive(table):
    def function():
        return 1

    class Local:
        def __call__(self):
            return 1

    for thing in (function, functools.partial(function, 1), Local()):
        table.encode(thing)
    dead = [weakref.ref(function), weakref.ref(Local)]
    del function, thing, Local
    gc.collect()
    # the last object is still in `thing`'s place in the pickler's memory of classes
    assert dead[0]() is None
    assert not table._watches


def test_recursive_global_functions_are_not_kept_alive(table, main_function):
    function, namespace = main_function("def f(n):\n    return f(n - 1) if n else 0")
    assert decode(table.encode(function).blob)(3) == 0
    dead = weakref.ref(function)
    namespace.clear()
    del function
    gc.collect()
    assert dead() is None


def test_memory_is_bounded(table, monkeypatch):
    monkeypatch.setattr(functions, "MAX_ENTRIES", 10)
    kept = [closure(n) for n in range(30)]
    refs = [table.encode(function) for function in kept]
    assert len(table._watches) == 10
    assert [decode(ref.blob)() for ref in refs] == list(range(30))
    assert [decode(table.encode(f).blob)() for f in kept] == list(range(30))


def test_changed_settings_are_noticed(table):
    class Local:
        pass

    try:
        function = closure(Local())
        table.encode(function)
        register_reducer(Local, lambda obj: (int, (7,)))
        assert decode(table.encode(function).blob)() == 7
        constant = closure(1)
        table.encode(constant)
        set_pickler("pickle")
        with pytest.raises(Exception, match=r"pickle|local object"):
            table.encode(constant)
    finally:
        settings.replace(settings.DEFAULT_PICKLER, {})


def test_refs_name_their_function(table):
    assert table.encode(Worker(1).run).name == "Worker.run"
    assert table.encode(functools.partial(work)).name == "partial"
    assert "constant" in repr(table.encode(len))
