"""transport/serialize: what travels, by name or by value, and comes back the same."""

import collections
import enum
import functools
import importlib.util
import json
import math
import pickle
import sys
import threading
import types
from fractions import Fraction
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cypar.transport import importable, serialize, settings
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


class Color(enum.Enum):
    RED = 1


@functools.lru_cache(maxsize=5)
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


@pytest.fixture
def default_settings():
    yield
    settings.replace(settings.DEFAULT_PICKLER, {})


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


# ---- classes of __main__ ------------------------------------------------------

PAY = """
account = loads(sent)
account.money += 1
answer = dumps_result([account, type(account)])
"""


def test_instances_come_back_as_the_same_class(in_worker):
    account, cls = loads(in_worker(dumps(Account(1)), PAY))
    assert cls is Account
    assert type(account) is Account
    assert account.money == 2
    # its methods are still this module's, and not copies from the worker
    assert Account.earn.__globals__ is globals()


def test_enum_members_come_back_as_the_same_object(in_worker):
    assert loads(in_worker(dumps(Color.RED), "answer = dumps_result(loads(sent))")) is (
        Color.RED
    )


def test_results_do_not_carry_the_class(in_worker):
    assert len(in_worker(dumps(Account(1)), PAY)) < 200


def test_classes_made_in_the_worker_come_by_value(in_worker):
    body = """
    class Made:
        def get(self):
            return self.x
    made = Made()
    made.x = 5
    answer = dumps_result(made)
    """
    assert loads(in_worker(b"", body)).get() == 5


def test_class_attributes_follow_the_parent(in_worker):
    class Setting:
        unit = "m"
        scale = 1

    first = dumps(Setting())
    Setting.scale = 2
    del Setting.unit
    second = dumps(Setting())
    body = """
    import pickle
    one, two = pickle.loads(sent)
    values = [loads(one).scale]
    values += [loads(two).scale, hasattr(loads(two), "unit"), loads(one).unit]
    answer = dumps_result(values)
    """
    assert loads(in_worker(pickle.dumps([first, second]), body)) == [1, 2, False, "m"]


def test_loading_here_what_was_sent_from_here_changes_no_class():
    earn = Account.earn
    assert type(loads(dumps(Account(1)))) is Account
    assert Account.earn is earn


# ---- what a worker can import -------------------------------------------------


def test_answers_follow_sys_path(user_module, monkeypatch):
    module = user_module("on_path", "def f():\n    return 1\n")
    importable.refresh()
    assert importable.worker_can_import("on_path")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.endswith("code")])
    importable.refresh()
    assert not importable.worker_can_import("on_path")
    assert loads(dumps(module.f)) is not module.f


def test_another_file_of_that_name_does_not_count(user_module, tmp_path, monkeypatch):
    user_module("two_files", "x = 1")
    other = tmp_path / "other"
    other.mkdir()
    (other / "two_files.py").write_text("x = 2")
    monkeypatch.syspath_prepend(str(other))
    importable.refresh()
    assert not importable.worker_can_import("two_files")


@pytest.mark.parametrize(
    "name",
    ["os.path", "collections.abc", "importlib._bootstrap", "json", "numpy.linalg"],
)
def test_libraries_are_importable(name):
    importable.refresh()
    assert importable.worker_can_import(name)


def test_editable_installs_are_importable(tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    site.mkdir()
    source = tmp_path / "src" / "edited_package.py"
    source.parent.mkdir()
    source.write_text("x = 1")
    (site / "edited_finder.py").write_text(
        "from importlib.util import spec_from_file_location\n"
        "class Finder:\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        "        if name == 'edited_package':\n"
        f"            return spec_from_file_location(name, {str(source)!r})\n"
    )
    monkeypatch.syspath_prepend(str(site))
    finder = __import__("edited_finder").Finder
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, finder])
    __import__("edited_package")
    try:
        importable.refresh()
        assert importable.worker_can_import("edited_package")
    finally:
        del sys.modules["edited_package"], sys.modules["edited_finder"]


# ---- choosing the pickler -----------------------------------------------------


@pytest.mark.usefixtures("default_settings")
class TestSettings:
    """S69, P30."""

    def test_reducers_work_in_both_directions(self, in_worker):
        serialize.register_reducer(Fraction, lambda x: (Fraction, (x.numerator + 1, 3)))
        assert loads(dumps([Fraction(1, 3)])) == [Fraction(2, 3)]
        assert loads(dumps([Fraction(1, 3), lambda: 1]))[0] == Fraction(2, 3)
        body = """
        from fractions import Fraction
        from cypar.transport.serialize import import_settings
        import_settings(sent)
        answer = dumps_result(Fraction(4, 3))
        """
        answer = loads(in_worker(serialize.export_settings(), body))
        assert answer == Fraction(5, 3)
        serialize.register_reducer(Fraction, None)
        assert loads(dumps(Fraction(1, 3))) == Fraction(1, 3)

    def test_reducer_for_arrays_is_asked(self):
        serialize.register_reducer(np.ndarray, lambda a: (list, (a.tolist(),)))
        assert loads(dumps((np.arange(2),))) == ([0, 1],)

    def test_pickle_alone_sends_no_lambdas(self):
        serialize.set_pickler("pickle")
        assert serialize.get_pickler_name() == "pickle"
        assert loads(dumps(json.dumps)) is json.dumps
        with pytest.raises((pickle.PicklingError, AttributeError)):
            dumps(lambda: 1)

    def test_pickle_alone_asks_reducers(self):
        serialize.set_pickler("pickle")
        serialize.register_reducer(Fraction, lambda x: (int, (7,)))
        assert loads(dumps(Fraction(1, 2))) == 7

    def test_dill(self):
        pytest.importorskip("dill")
        serialize.set_pickler("dill")
        assert loads(dumps(lambda: 3))() == 3

    def test_modules_with_a_pickler_class(self, user_module):
        user_module(
            "own_pickler",
            """
            import pickle
            class Pickler(pickle.Pickler):
                def reducer_override(self, obj):
                    return (str, ("seen",)) if type(obj) is range else NotImplemented
            """,
        )
        serialize.set_pickler("own_pickler")
        serialize.register_reducer(Fraction, lambda x: (int, (7,)))
        assert loads(dumps([range(1), Fraction(1)])) == ["seen", 7]

    def test_modules_with_dumps_only(self):
        module = types.ModuleType("dumps_only")
        module.dumps = lambda obj: pickle.dumps(["wrapped", obj])
        try:
            serialize.set_pickler(module)
            assert loads(dumps(1)) == ["wrapped", 1]
        finally:
            del sys.modules["dumps_only"]

    def test_unusable_modules_are_refused(self):
        with pytest.raises(ImportError, match="no_such_pickler"):
            serialize.set_pickler("no_such_pickler")
        with pytest.raises(ValueError, match="neither a class Pickler"):
            serialize.set_pickler("math")
        assert serialize.get_pickler_name() == "cloudpickle"

    def test_bad_reducers_are_refused(self):
        with pytest.raises(TypeError, match="must be a class"):
            serialize.register_reducer(1, len)
        with pytest.raises(TypeError, match="callable or None"):
            serialize.register_reducer(int, 1)

    def test_settings_travel_with_any_pickler(self):
        serialize.set_pickler("pickle")
        serialize.register_reducer(Fraction, lambda x: (int, (7,)))
        exported = serialize.export_settings()
        settings.replace(settings.DEFAULT_PICKLER, {})
        serialize.import_settings(exported)
        assert serialize.get_pickler_name() == "pickle"
        assert loads(dumps(Fraction(1))) == 7


@pytest.mark.parametrize("variable", ["CYPAR_PICKLER", "LOKY_PICKLER"])
def test_environment_chooses_the_pickler(run_python, variable):
    program = "from cypar.transport.serialize import *; print(get_pickler_name())"
    env = {"CYPAR_PICKLER": None, "LOKY_PICKLER": None, variable: "pickle"}
    assert run_python("-c", program, env=env).stdout.strip() == "pickle"


def test_wrong_name_in_the_environment_is_reported_at_the_first_use(run_python):
    program = "from cypar.transport.serialize import dumps\ndumps(1)"
    error = run_python("-c", program, env={"CYPAR_PICKLER": "nix"}, returncode=1).stderr
    assert "the pickler 'nix' cannot be imported" in error


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
