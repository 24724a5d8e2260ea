"""core/_plain: what can be pickled without asking Python code."""

import enum
import fractions
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cypar.core._plain import is_immutable, is_plain

LEAVES = (type(None), bool, int, float, complex, str, bytes, range, type(...))
MAX_DEPTH = 6


def immutable_twin(obj, depth=MAX_DEPTH):
    if type(obj) in LEAVES:
        return True
    if type(obj) in (tuple, frozenset):
        return depth > 0 and all(immutable_twin(item, depth - 1) for item in obj)
    return False


def plain_twin(obj, depth=MAX_DEPTH):
    if type(obj) in (*LEAVES, bytearray):
        return True
    if type(obj) in (tuple, list, set, frozenset):
        return depth > 0 and all(plain_twin(item, depth - 1) for item in obj)
    if type(obj) is dict:
        items = [*obj, *obj.values()]
        return depth > 0 and all(plain_twin(item, depth - 1) for item in items)
    return False


hashables = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=3)
    | st.complex_numbers()
    | st.sampled_from([..., range(3), fractions.Fraction(1, 2), int, len]),
    lambda inner: st.tuples(inner) | st.frozensets(inner, max_size=2),
    max_leaves=10,
)
anything = st.recursive(
    hashables | st.builds(bytearray) | st.builds(object),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(hashables, inner, max_size=2)
        | st.sets(hashables, max_size=2)
    ),
    max_leaves=12,
)


@given(anything)
def test_agrees_with_plain_python(obj):
    assert is_immutable(obj) == immutable_twin(obj)
    assert is_plain(obj) == plain_twin(obj)


def test_subclasses_are_not_plain():
    class Number(int):
        pass

    point = namedtuple("point", "x")
    color = enum.IntEnum("color", "RED")
    for obj in (Number(1), point(1), color.RED, OrderedDict(a=1)):
        assert not is_immutable(obj)
        assert not is_plain(obj)


def test_depth_is_bounded():
    nested = ()
    for _ in range(MAX_DEPTH):
        assert is_immutable(nested)
        nested = (nested,)
    assert not is_immutable((nested,))


def test_size_is_bounded():
    assert is_immutable((0,) * 60_000)
    assert not is_immutable((0,) * 70_000)
    shared = (0,) * 1000
    assert not is_plain([[shared] * 1000] * 1000)


def test_cycles_end():
    cycle = []
    cycle.append(cycle)
    assert not is_plain(cycle)


def test_no_python_code_runs():
    class Meta(type):
        def __hash__(cls):
            raise RuntimeError("asked for a hash")

        def __eq__(cls, other):
            raise RuntimeError("asked for equality")

    class Hostile(metaclass=Meta):
        def __getattribute__(self, name):
            raise RuntimeError("asked for an attribute")

    assert not is_plain(Hostile())
    assert not is_plain([Hostile])


@pytest.mark.parametrize("dtype", ["b", "u8", "f4", "c16", "S3", "U2", "M8[s]", "?"])
def test_numpy_arrays_of_values_are_plain_and_not_immutable(dtype):
    array = np.zeros(3, dtype)
    assert is_plain(array)
    assert not is_immutable(array)
    assert is_immutable(array[0])


def test_other_arrays_are_not_plain():
    class Array(np.ndarray):
        pass

    with_metadata = np.zeros(2, np.dtype("i4", metadata={"f": len}))
    for array in (
        np.array([None]),
        np.zeros(2, "i4, f8"),
        np.ma.zeros(2),
        np.zeros(2).view(Array),
        with_metadata,
    ):
        assert not is_plain(array)
    assert not is_plain(np.zeros(1, "i4, O")[0])
