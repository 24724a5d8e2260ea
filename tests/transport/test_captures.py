"""transport/captures: a change of what a function carries is noticed."""

import functools
import math
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cypar.transport import importable
from cypar.transport.functions import FunctionTable, decode

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


def edit_list(values):
    values["x"].append(1)


def rebind(values):
    values["x"] = 5


@pytest.mark.parametrize("edit", [edit_list, rebind])
def test_edited_global_is_noticed(table, main_function, edit):
    function, namespace = main_function("def f():\n    return x", x=[0])
    before = table.encode(function)
    edit(namespace)
    after = table.encode(function)
    assert after.blob != before.blob
    assert after.number != before.number
    assert decode(after.blob)() == namespace["x"]
    assert decode(before.blob)() == [0]


def test_edited_constant_global_is_noticed(table, main_function):
    function, namespace = main_function("def f():\n    return x", x=0)
    before = table.encode(function)
    namespace["x"] = 1
    assert decode(table.encode(function).blob)() == 1
    del namespace["x"]
    with pytest.raises(NameError):
        decode(table.encode(function).blob)()
    namespace["x"] = 0
    assert table.encode(function).blob == before.blob


def test_edited_cell_is_noticed(table):
    x = 1

    def function():
        return x

    for new in (2, [3], "four", None):
        table.encode(function)
        x = new
        assert decode(table.encode(function).blob)() == new


def test_edited_self_is_noticed(table):
    worker = Worker(1)
    method = worker.run
    before = table.encode(method)
    worker.n = 5
    assert decode(before.blob)(2) == 2
    assert decode(table.encode(method).blob)(2) == 10


def test_edited_class_attribute_is_noticed(table):
    class Local:
        x = 1

    def function():
        return Local.x

    before = table.encode(function)
    Local.x = 2
    assert table.encode(function).blob != before.blob


def test_redefined_helper_is_noticed(table, main_function):
    function, namespace = main_function("def g():\n  return 1\ndef f():\n  return g()")
    assert decode(table.encode(function).blob)() == 1
    exec("def g():\n  return 2", namespace)
    assert decode(table.encode(function).blob)() == 2


def test_edited_helper_global_is_noticed(table, main_function):
    function, namespace = main_function(
        "def g():\n  return x\ndef f():\n  return g()", x=1
    )
    assert decode(table.encode(function).blob)() == 1
    namespace["x"] = 2
    assert decode(table.encode(function).blob)() == 2


def test_builtin_hidden_later_is_noticed(table, main_function):
    function, namespace = main_function("def f():\n    return len('abc')")
    assert decode(table.encode(function).blob)() == 3
    namespace["len"] = lambda text: -1
    assert decode(table.encode(function).blob)() == -1


def test_globals_of_nested_functions_are_seen(table, main_function):
    text = (
        "def f():\n    def g():\n        return [x for _ in range(1)]\n    return g()"
    )
    function, namespace = main_function(text, x=1)
    assert decode(table.encode(function).blob)() == [1]
    namespace["x"] = 2
    assert decode(table.encode(function).blob)() == [2]


def test_attribute_names_are_no_globals(table, main_function):
    text = "def f(thing):\n    return thing.data"
    function, _ = main_function(text, data=[1, 2])
    assert not table.encode(function).mutable


def edited_code(f):
    f.__code__ = (lambda x=0: 2).__code__


def edited_defaults(f):
    f.__defaults__ = (2,)


def edited_attribute(f):
    f.y = 2


@pytest.mark.parametrize("edit", [edited_code, edited_defaults, edited_attribute])
def test_edited_function_is_noticed(table, main_function, edit):
    function, _ = main_function("def f(x=1):\n    return x")
    before = table.encode(function)
    edit(function)
    after = table.encode(function)
    assert after.blob != before.blob
    assert decode(after.blob)() == function()


def test_edited_keywords_of_a_partial_are_noticed(table):
    partial = functools.partial(work, x=1)
    before = table.encode(partial)
    partial.keywords["x"] = 2
    assert decode(table.encode(partial).blob)() == 22
    partial.keywords["y"] = 3
    assert table.encode(partial).blob != before.blob


def test_shadowed_import_is_noticed(table, main_function):
    function, namespace = main_function("import math\ndef f():\n  return math.pi")
    assert decode(table.encode(function).blob)() == math.pi
    namespace["math"] = types.SimpleNamespace(pi=3)
    assert decode(table.encode(function).blob)() == 3


constants = st.sampled_from([1, 1.0, True, "a", None, (1, 2), ((), "b")])
values = constants | st.builds(list) | st.builds(dict) | st.builds(lambda: [1, [2]])
edits = st.lists(
    st.one_of(
        st.tuples(st.just("global"), st.sampled_from("xy"), values),
        st.tuples(st.just("cell"), st.just(""), values),
        st.tuples(st.just("default"), st.just(""), values),
        st.tuples(st.just("append"), st.sampled_from("xy"), st.integers()),
        st.tuples(st.just("helper"), st.just(""), values),
    ),
    min_size=1,
    max_size=8,
)


@given(edits)
def test_any_series_of_edits_gives_the_values_of_now(steps):
    namespace = {"__name__": "__main__", "x": 0, "y": 0}
    text = (
        "def make(z):\n"
        "    def f(d=0):\n        return [x, z, d, helper()]\n"
        "    def set(value):\n        nonlocal z\n        z = value\n"
        "    return f, set\n"
        "def helper(h=0):\n    return y, h\n"
    )
    exec(text, namespace)
    function, set_cell = namespace["make"](0)
    table = FunctionTable()
    for kind, name, value in steps:
        if kind == "global":
            namespace[name] = value
        elif kind == "cell":
            set_cell(value)
        elif kind == "default":
            function.__defaults__ = (value,)
        elif kind == "helper":
            namespace["helper"].__defaults__ = (value,)
        elif isinstance(namespace[name], list) and len(namespace[name]) < 5:
            namespace[name].append(value)
        assert repr(decode(table.encode(function).blob)()) == repr(function())
