"""core/_watch: a function is recognised only while its parts are the same objects."""

import weakref
from types import CellType

import pytest

from cypar.core._watch import MISSING, ROOT, Watch


def watch(owner, functions=(), cells=(), names=(), sizes=(), is_weak=False):
    return Watch(owner, is_weak, functions, cells, names, sizes, "payload")


def parts_of(function, attributes=0):
    defaults = (function.__defaults__, function.__kwdefaults__)
    return (ROOT, function.__code__, *defaults, attributes)


def test_holds_for_its_owner_only():
    assert watch(len).holds(len)
    assert not watch(len).holds(abs)
    assert watch(len).payload == "payload"


def test_a_dead_weak_owner_never_holds():
    function = lambda: 1  # noqa: E731
    weak = watch(weakref.ref(function), is_weak=True)
    assert weak.holds(function)
    del function
    assert not weak.holds(lambda: 1)


def edit_code(f):
    f.__code__ = (lambda x=0, *, k=0: 2).__code__


def edit_defaults(f):
    f.__defaults__ = (1,)


def edit_kwdefaults(f):
    f.__kwdefaults__ = {"k": 0}


def edit_attributes(f):
    f.unit = "m"


@pytest.mark.parametrize(
    "edit", [edit_code, edit_defaults, edit_kwdefaults, edit_attributes]
)
def test_an_edited_function_is_noticed(edit):
    def function(x=0, *, k=0):
        return 1

    watched = watch(function, functions=(parts_of(function),))
    assert watched.holds(function)
    edit(function)
    assert not watched.holds(function)


def test_cells_are_compared_by_identity():
    cell = CellType(10**20)
    watched = watch(len, cells=((cell, cell.cell_contents),))
    assert watched.holds(len)
    cell.cell_contents = int("1" + 20 * "0")  # equal, and another object
    assert not watched.holds(len)
    del cell.cell_contents
    assert not watched.holds(len)
    assert watch(len, cells=((cell, MISSING),)).holds(len)


def test_names_and_sizes_are_compared():
    namespace = {"a": 1}
    watched = watch(len, names=((namespace, "a", 1), (namespace, "b", MISSING)))
    sized = watch(len, sizes=((namespace, 1),))
    assert watched.holds(len)
    assert sized.holds(len)
    namespace["b"] = 2
    assert not watched.holds(len)
    assert not sized.holds(len)


def test_root_stands_for_the_owner():
    namespace = {"self": len}
    watched = watch(len, names=((namespace, "self", ROOT),))
    assert watched.holds(len)
    namespace["self"] = abs
    assert not watched.holds(len)


def test_wrong_types_raise():
    with pytest.raises(TypeError):
        watch(len, names=(([], "a", 1),)).holds(len)
