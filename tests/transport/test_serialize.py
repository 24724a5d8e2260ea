"""transport/serialize: what travels, by name or by value, and comes back the same."""

import collections
import functools
import importlib.util
import json
import math
import pickle
import sys
import threading
import types
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cypar.transport import importable, serialize
from cypar.transport.serialize import dumps, dumps_result, loads

# As if defined in a script, whatever pytest put on sys.path.
importable.distrust(__name__)

FACTOR = 3


def triple(x):
    return FACTOR * x


class Account:
    rate = 2

    def __init__(self, money):
        self.money = money

    def earn(self):
        return self.money * self.rate

    def __private(self):
        return self.money

    def private_method(self):
        return self.__private


@functools.lru_cache(maxsize=5)
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


# ---- plain data ---------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
plain = st.recursive(
    scalars | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.sets(scalars, max_size=3)
    ),
)


@given(plain)
def test_plain_data_is_pickled_as_by_pickle(obj):
    data = dumps(obj)
    assert data == pickle.dumps(obj, 5)
    assert loads(data) == obj


def test_buffers_can_be_taken_out_of_band():
    array = np.arange(1000)
    buffers = []
    data = dumps({"a": array, "f": lambda: 1}, buffers.append)
    assert len(data) < 2000
    (buffer,) = buffers
    assert buffer.raw().nbytes == array.nbytes
    restored = pickle.loads(data, buffers=buffers)
    np.testing.assert_array_equal(restored["a"], array)


def test_cloudpickle_is_imported_only_when_needed(run_python):
    program = """
import sys
from fractions import Fraction
import json
from cypar.transport.serialize import dumps, loads
half = Fraction(1, 2)
things = (1, {}), half, json.dumps, json.JSONDecoder, len, half.limit_denominator
for obj in things:
    assert type(loads(dumps(obj))) is type(obj), obj
assert "cloudpickle" not in sys.modules
assert loads(dumps(lambda: 5))() == 5
assert "cloudpickle" in sys.modules
"""
    run_python("-c", program)


# ---- by name ------------------------------------------------------------------


@pytest.mark.parametrize(
    "obj",
    [math.sqrt, json.dumps, json.JSONDecoder, np.add, np.sum, json, int, dict.fromkeys],
    ids=repr,
)
def test_importable_things_go_by_name(obj):
    data = dumps(obj)
    assert len(data) < 120
    assert loads(data) == obj


def test_type_of_none_and_other_builtin_types():
    for kind in (type(None), type(...), types.FunctionType, types.ModuleType, range):
        assert loads(dumps(kind)) is kind


def test_methods_with_private_names():
    method = Account(5).private_method()
    assert loads(dumps(method))() == 5


# ---- by value -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["__main__", "__mp_main__"])
def test_functions_of_main_go_by_value(in_worker, monkeypatch, name):
    """S19."""
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec("k = 4\ndef f():\n    return k * g()\ndef g():\n    return 2", vars(module))
    assert loads(in_worker(dumps(module.f))) == 8


def test_closures_and_lambdas(in_worker):
    offset = 5
    assert loads(in_worker(dumps(lambda: triple(2) + offset))) == 11


def test_functions_without_a_module(in_worker):
    namespace = {}
    exec("def f():\n    return 7", namespace)
    assert loads(in_worker(dumps(namespace["f"]))) == 7


def test_modules_loaded_from_elsewhere_go_by_value(in_worker, tmp_path, monkeypatch):
    file = tmp_path / "elsewhere.py"
    file.write_text("class A:\n    x = 6\ndef f():\n    return A().x\n")
    spec = importlib.util.spec_from_file_location("elsewhere", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "elsewhere", module)
    spec.loader.exec_module(module)
    assert loads(in_worker(dumps(module.f))) == 6
    assert loads(in_worker(dumps(lambda: module.f() + 1))) == 7


def test_modules_made_by_hand_go_by_value(in_worker, monkeypatch):
    module = types.ModuleType("by_hand")
    exec("def f():\n    return 8", vars(module))
    monkeypatch.setitem(sys.modules, "by_hand", module)
    assert loads(in_worker(dumps(module.f))) == 8


def test_instances_of_importable_classes_may_hold_lambdas(in_worker):
    namespace = types.SimpleNamespace(f=lambda: 9)
    call = functools.partial(lambda n: n.f(), namespace)
    assert loads(in_worker(dumps(call))) == 9


def test_cached_functions_and_recursion(in_worker):
    assert loads(in_worker(dumps(functools.partial(fibonacci, 30)))) == 832040
    again = loads(dumps(fibonacci))
    assert again.cache_parameters() == {"maxsize": 5, "typed": False}
    assert again.__name__ == "fibonacci"


def test_type_variables():
    variable = TypeVar("variable", bound=int)
    assert loads(dumps(variable)) is variable


@pytest.mark.parametrize("way", ["-c", "stdin", "exec", "script", "-m"])
def test_main_however_it_is_run(run_python, tmp_path, way):
    program = """
import pickle, subprocess, sys
from cypar.transport.serialize import dumps
base = 40
class Adder:
    def __call__(self, x): return base + x
def task(): return Adder()(2)
sent = dumps(task)
program = "import sys, pickle; print(pickle.loads(sys.stdin.buffer.read())())"
print(subprocess.run([sys.executable, "-c", program], input=sent,
      stdout=subprocess.PIPE).stdout.decode())
"""
    script = tmp_path / "script_as_main.py"
    script.write_text(program)
    arguments, text = {
        "-c": (["-c", program], None),
        "stdin": (["-"], program),
        "exec": (["-c", f"exec({program!r})"], None),
        "script": ([script], None),
        "-m": (["-m", "script_as_main"], None),
    }[way]
    assert run_python(*arguments, input=text).stdout.strip() == "42"


# ---- failures -----------------------------------------------------------------


def test_probe_returns_the_error():
    assert serialize.probe([1, lambda: 2]) is None
    assert "lock" in str(serialize.probe([threading.Lock()]))


def test_too_deep_structures_say_so():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(pickle.PicklingError, match="nested too deeply"):
        dumps(deep)
    while deep:  # its destructor recurses too
        deep = deep.pop()


def test_named_tuples_of_main(in_worker):
    point = collections.namedtuple("point", "x y")
    assert loads(in_worker(dumps(functools.partial(point, 1, 2)))) == (1, 2)


def test_dumps_result_equals_dumps_for_plain_data():
    assert dumps_result((1, [2])) == dumps((1, [2]))
