"""transport/functions: what is sent once, what at every draw, and what is noticed."""

import functools
import gc
import importlib
import json
import math
import operator
import sys
import types
import weakref

import numpy as np
import pytest

from cypar.transport import functions, importable, settings
from cypar.transport.functions import FunctionTable, ModuleChanged, decode
from cypar.transport.serialize import loads, register_reducer, set_pickler

# As if defined in a script, whatever pytest put on sys.path.
importable.distrust(__name__)


@pytest.fixture
def table():
    return FunctionTable()


def main_function(text, name="f", **values):
    """Return a function as a script would define it, and its globals."""
    namespace = {"__name__": "__main__", **values}
    exec(text, namespace)
    return namespace[name], namespace


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
def test_functions_that_rebind_what_they_captured_get_a_fresh_copy(table, text):
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


# ---- changes between two draws ---------------------------------------------------


def edit_list(values):
    values["x"].append(1)


def rebind(values):
    values["x"] = 5


@pytest.mark.parametrize("edit", [edit_list, rebind])
def test_edited_global_is_noticed(table, edit):
    function, namespace = main_function("def f():\n    return x", x=[0])
    before = table.encode(function)
    edit(namespace)
    after = table.encode(function)
    assert after.blob != before.blob
    assert after.number != before.number
    assert decode(after.blob)() == namespace["x"]
    assert decode(before.blob)() == [0]


def test_edited_constant_global_is_noticed(table):
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


def test_redefined_helper_is_noticed(table):
    function, namespace = main_function("def g():\n  return 1\ndef f():\n  return g()")
    assert decode(table.encode(function).blob)() == 1
    exec("def g():\n  return 2", namespace)
    assert decode(table.encode(function).blob)() == 2


def test_edited_helper_global_is_noticed(table):
    function, namespace = main_function(
        "def g():\n  return x\ndef f():\n  return g()", x=1
    )
    assert decode(table.encode(function).blob)() == 1
    namespace["x"] = 2
    assert decode(table.encode(function).blob)() == 2


def test_builtin_hidden_later_is_noticed(table):
    function, namespace = main_function("def f():\n    return len('abc')")
    assert decode(table.encode(function).blob)() == 3
    namespace["len"] = lambda text: -1
    assert decode(table.encode(function).blob)() == -1


def test_globals_of_nested_functions_are_seen(table):
    text = (
        "def f():\n    def g():\n        return [x for _ in range(1)]\n    return g()"
    )
    function, namespace = main_function(text, x=1)
    assert decode(table.encode(function).blob)() == [1]
    namespace["x"] = 2
    assert decode(table.encode(function).blob)() == [2]


def test_attribute_names_are_no_globals(table):
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
def test_edited_function_is_noticed(table, edit):
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


def test_shadowed_import_is_noticed(table):
    function, namespace = main_function("import math\ndef f():\n  return math.pi")
    assert decode(table.encode(function).blob)() == math.pi
    namespace["math"] = types.SimpleNamespace(pi=3)
    assert decode(table.encode(function).blob)() == 3


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


def test_recursive_global_functions_are_not_kept_alive(table):
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
        with pytest.raises(Exception, match="pickle"):
            table.encode(constant)
    finally:
        settings.replace(settings.DEFAULT_PICKLER, {})


def test_refs_name_their_function(table):
    assert table.encode(Worker(1).run).name == "Worker.run"
    assert table.encode(functools.partial(work)).name == "partial"
    assert "constant" in repr(table.encode(len))


# ---- edited modules ---------------------------------------------------------------

STEP = "import sys\nSTEP = 1\ndef work(x):\n    return x + 1\n"
EDITED = "import sys\nSTEP = 1\ndef work(x):\n    return x + 2\n"


@pytest.fixture
def distrusted():
    before = set(importable._distrusted)
    yield
    importable._distrusted.clear()
    importable._distrusted.update(before)


def reload(module, text):
    with open(module.__file__, "w") as file:
        file.write(text)
    importlib.invalidate_caches()
    importlib.reload(module)


DECODE = "from cypar.transport.functions import ModuleChanged, decode\n"
TWO_BLOBS = (
    DECODE
    + """
old, new = loads(sent)
answers = [decode(old)(10)]
try:
    answers.append(decode(new)(10))
except ModuleChanged as change:
    answers += [change.module, change.was_loaded, str(change)]
answer = dumps_result(answers)
"""
)


def test_reloaded_module_is_noticed(table, user_module, in_worker):
    module = user_module("edited_one", STEP)
    old = table.encode(module.work).blob
    reload(module, EDITED)
    new = table.encode(module.work).blob
    assert new != old
    # this worker has the new file only: it is a fresh one
    body = DECODE + "answer = dumps_result(decode(sent)(10))"
    assert loads(in_worker(new, body)) == 12


def test_worker_with_the_old_import_says_so(table, user_module):
    module = user_module("edited_two", STEP)
    blob = table.encode(module.work).blob
    assert decode(blob) is module.work
    module.work.__code__ = (lambda x: x + 5).__code__  # as IPython's autoreload does
    with pytest.raises(ModuleChanged) as caught:
        decode(blob)
    assert caught.value.module == "edited_two"
    assert caught.value.was_loaded
    assert "work has different code" in str(caught.value)
    assert decode(table.encode(module.work).blob)(1) == 6


@pytest.mark.usefixtures("distrusted")
def test_file_edited_after_the_import_travels_by_value(table, user_module, in_worker):
    module = user_module("edited_three", STEP)
    with open(module.__file__, "w") as file:
        file.write(EDITED)
    body = (
        DECODE
        + """
try:
    answer = dumps_result(decode(sent)(10))
except ModuleChanged as change:
    answer = dumps_result((change.module, change.was_loaded))
"""
    )
    answer = loads(in_worker(table.encode(module.work).blob, body))
    assert answer == ("edited_three", False)
    table.distrust("edited_three")
    assert loads(in_worker(table.encode(module.work).blob, body)) == 11
    assert loads(in_worker(table.encode(lambda x: module.work(x)).blob, body)) == 12
    work = module.work
    assert loads(in_worker(table.encode(lambda x: work(x)).blob, body)) == 11


def test_missing_module_is_reported(table, user_module, in_worker):
    module = user_module("edited_four", STEP)
    blob = table.encode(module.work).blob
    body = (
        DECODE
        + """
sys.path = [p for p in sys.path if not p.endswith("code")]
try:
    decode(sent)
except ModuleChanged as change:
    answer = dumps_result((change.was_loaded, str(change)))
"""
    )
    was_loaded, text = loads(in_worker(blob, body))
    assert not was_loaded
    assert "cannot be imported: ModuleNotFoundError" in text


@pytest.mark.parametrize("mutable", [False, True], ids=["constant", "mutable"])
@pytest.mark.parametrize("way", ["module", "name", "bound method"])
def test_edited_helper_modules_are_noticed(table, user_module, way, mutable):
    module = user_module(
        "edited_five", STEP + "class A:\n    def work(self, x):\n        return x + 1\n"
    )
    data = [] if mutable else ()
    work = module.work
    function = {
        "module": lambda x: (module.work(x), data),
        "name": lambda x: (work(x), data),
        "bound method": module.A().work,
    }[way]
    old = table.encode(function).blob
    decode(old)
    target = module.A.work if way == "bound method" else module.work
    target.__code__ = (lambda self, x=0: self + 5).__code__
    with pytest.raises(ModuleChanged, match="edited_five"):
        decode(old)
    decode(table.encode(function).blob)


def test_decorated_functions_are_looked_through(table, user_module):
    text = """
    import functools
    def twice(f):
        @functools.wraps(f)
        def wrapper(x):
            return 2 * f(x)
        return wrapper
    @twice
    def work(x):
        return x + STEP
    """
    module = user_module("decorated", text.replace("STEP", "1"))
    old = table.encode(module.work).blob
    module.work.__wrapped__.__code__ = (lambda x: x + 2).__code__
    with pytest.raises(ModuleChanged):
        decode(old)


def test_digest_is_the_same_in_every_process(user_module, table, run_python):
    text = (
        "def work(x, y=(1, 'a', -0.0), *, k=b'1'):\n    return x in {'a', 'b', 1.5}\n"
    )
    module = user_module("digested", text)
    program = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "from digested import work\n"
        "from cypar.transport.digest import function_digest\n"
        "print(function_digest(work).hex())"
    )
    folder = module.__file__.rpartition("/")[0]
    digests = {
        run_python("-c", program, folder, env={"PYTHONHASHSEED": seed}).stdout.strip()
        for seed in ("1", "2")
    }
    assert digests == {functions.function_digest(module.work).hex()}
    assert sys.modules["digested"] is module
