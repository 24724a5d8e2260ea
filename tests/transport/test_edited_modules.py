"""transport/functions and digest: a worker notices that its import is another one."""

import importlib
import sys

import pytest

from cypar.transport import functions, importable
from cypar.transport.functions import ModuleChanged, decode
from cypar.transport.serialize import loads

# As if defined in a script, whatever pytest put on sys.path.
importable.distrust(__name__)

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
