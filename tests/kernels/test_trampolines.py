"""Every kind of signature passes its numbers exactly, checked against libffi."""

import ctypes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cypar import Kernel

WIDE = [ctypes.c_int64, ctypes.c_double, ctypes.c_uint64]
MIXED = [ctypes.c_int64, ctypes.c_double, ctypes.c_int32, ctypes.c_float]
NARROW = [
    ctypes.c_uint32, ctypes.c_int16, ctypes.c_uint16, ctypes.c_int8, ctypes.c_uint8,
]  # fmt: skip


def values_of(kind):
    if kind in (ctypes.c_double, ctypes.c_float):
        width = 64 if kind is ctypes.c_double else 32
        return st.floats(width=width, allow_nan=False, allow_infinity=False)
    bits = 8 * ctypes.sizeof(kind)
    if kind(-1).value < 0:
        return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return st.integers(0, 2**bits - 1)


@st.composite
def calls(draw):
    """(result type, argument types, arguments, result) of one of the three sets."""
    kinds, most = draw(
        st.one_of(
            st.just((WIDE, 6)),
            st.just((MIXED, 4)),
            st.sampled_from(NARROW).map(lambda narrow: ([*WIDE, narrow], 3)),
        )
    )
    types = draw(st.lists(st.sampled_from(kinds), max_size=most))
    results = [None, *kinds, ctypes.c_int32] if kinds is WIDE else [None, *kinds]
    result_type = draw(st.sampled_from(results))
    arguments = [draw(values_of(kind)) for kind in types]
    result = None if result_type is None else draw(values_of(result_type))
    return result_type, types, arguments, result


@given(call=calls())
@settings(max_examples=400)
def test_arguments_and_results_are_exact(call):
    result_type, types, arguments, result = call
    seen = []

    def function(*args):
        seen.append(list(args))
        return result

    kernel = Kernel(ctypes.CFUNCTYPE(result_type, *types)(function))
    assert kernel(*arguments) == result
    assert seen == [arguments]


@pytest.mark.parametrize(
    ("result_type", "types"),
    [
        (ctypes.c_float, [ctypes.c_double] * 5),
        (ctypes.c_int32, [ctypes.c_double] * 4 + [ctypes.c_int32]),
        (ctypes.c_double, [ctypes.c_int16] * 4),
        (ctypes.c_double, [ctypes.c_int16, ctypes.c_int8]),
        (ctypes.c_float, [ctypes.c_int16]),
    ],
)
def test_what_no_trampoline_passes_is_refused(result_type, types):
    with pytest.raises(TypeError, match=r"argument|result"):
        Kernel(ctypes.CFUNCTYPE(result_type, *types)(lambda *args: 0))
