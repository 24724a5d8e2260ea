"""Kernel: calls from Python and the checks of their arguments."""

import array
import ctypes
import pickle
import sys

import numpy as np
import pytest

from cypar import Kernel, KernelError

# ---- calls ------------------------------------------------------------------------


def test_a_row_sum(kernel):
    x = np.arange(10.0)
    assert kernel("row_sum")(x, 10) == 45.0
    assert kernel("row_sum")(x, 3) == 3.0


def test_a_kernel_has_its_functions_name(kernel):
    assert kernel("row_sum").__name__ == kernel("row_sum").name == "row_sum"


def test_a_kernel_writes_through_a_pointer(kernel):
    x = np.ones(5)
    assert kernel("scale")(x, 5, 3.0) is None
    assert x.tolist() == [3.0] * 5


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("inc_q", 2**63 - 2, 2**63 - 1),
        ("inc_q", -(2**63), -(2**63) + 1),
        ("inc_Q", 2**64 - 2, 2**64 - 1),
        ("neg_i", 2**31 - 1, -(2**31) + 1),
        ("neg_i", -5, 5),
        ("inc_u", 2**32 - 2, 2**32 - 1),
        ("inc_u", 2**32 - 1, 0),
        ("inc_h", -(2**15), -(2**15) + 1),
        ("inc_H", 2**16 - 2, 2**16 - 1),
        ("inc_b", -128, -127),
        ("inc_b", 127, -128),
        ("inc_B", 254, 255),
        ("half", 5, 2.5),
        ("half", np.float32(0.5), 0.25),
        ("inc_q", np.int8(3), 4),
        ("inc_q", True, 2),
    ],
)
def test_numbers_pass_exactly(kernel, name, value, expected):
    assert kernel(name)(value) == expected


def test_float32_is_rounded_once(kernel):
    assert kernel("add_f")(0.1, 0.2) == float(np.float32(0.1) + np.float32(0.2))


def test_six_arguments_of_two_kinds(kernel):
    assert kernel("mix6")(1, 2.0, 3, 4.0, 5.0, 6) == 654321


def test_an_int_that_only_says_whether_it_failed(kernel):
    x, out = np.arange(3.0), np.zeros(3)
    sums = kernel("sums_of_rows", errors="exception")
    assert sums(x, x, out, 3, 2.0) == 7
    assert out.tolist() == [0.0, 3.0, 6.0]
    with pytest.raises(ValueError, match="factor"):
        sums(x, x, out, 3, -1.0)


def test_four_arguments_of_four_kinds(kernel):
    assert kernel("mix4")(1, 2.0, 3.0, 4) == 4321


def test_no_argument(kernel):
    assert kernel("nothing")() == 7.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("inc_q", 2**63),
        ("inc_Q", -1),
        ("inc_Q", 2**64),
        ("neg_i", 2**31),
        ("inc_u", -1),
        ("inc_h", 2**15),
        ("inc_B", 256),
        ("inc_b", -129),
    ],
)
def test_integers_out_of_range_are_refused(kernel, name, value):
    with pytest.raises(OverflowError, match=rf"argument 0 .*{name}"):
        kernel(name)(value)


@pytest.mark.parametrize("name", ["inc_q", "half"])
def test_a_huge_integer_is_not_printed(kernel, name):
    with pytest.raises(OverflowError, match="an integer of 33220 bits"):
        kernel(name)(10**10_000)


@pytest.mark.parametrize(
    ("name", "value"),
    [("inc_q", 1.5), ("inc_q", "1"), ("inc_q", None), ("half", "x"), ("half", 1j)],
)
def test_what_is_no_number_is_refused(kernel, name, value):
    with pytest.raises(TypeError, match=r"argument 0 .* must be a"):
        kernel(name)(value)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_the_number_of_arguments_is_checked(kernel, n):
    with pytest.raises(TypeError, match=f"takes 2 arguments, {n} were given"):
        kernel("row_sum")(*[1] * n)


# ---- buffers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "x",
    [
        array.array("d", [1, 2, 3]),
        memoryview(array.array("d", [1, 2, 3])),
        np.array([1.0, 2.0, 3.0], dtype="<f8"),
        np.array([[1.0, 2.0, 3.0]]),
        np.arange(1.0, 4.0).view(type("Sub", (np.ndarray,), {})),
        (ctypes.c_double * 3)(1, 2, 3),
    ],
    ids=["array", "memoryview", "ndarray", "2d", "subclass", "ctypes"],
)
def test_buffers_of_many_kinds(kernel, x):
    assert kernel("row_sum")(x, 3) == 6.0


def test_read_only_buffers_are_fine_behind_const(kernel):
    x = np.ones(3)
    x.flags.writeable = False
    assert kernel("row_sum")(x, 3) == 3.0
    assert kernel("sum_bytes")(b"\x01\x02", 2) == 3


def test_complex_and_void_pointers(kernel):
    assert kernel("first_imag")(np.array([1 + 2j])) == 2.0
    x = np.zeros(4, "i4")
    kernel("fill_void", lengths={})(x, 16)
    assert x.tolist() == [0x01010101] * 4


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones(3, "f4"), TypeError, r"argument 0 .* float32.*astype\('float64'\)"),
        (np.ones(3, "i8"), TypeError, "argument 0 .* int64, expected float64"),
        (np.ones(3, "u2"), TypeError, "argument 0 .* uint16, expected float64"),
        (np.ones(3, ">f8"), TypeError, "argument 0 .* float64 in the other byte order"),
        (np.ones(3, "O"), TypeError, "argument 0 .* object, expected float64"),
        (np.ones(3, "M8[s]"), TypeError, "argument 0 .*'M'"),
        (np.ones(3, [("a", "f8")]), TypeError, "argument 0 .*'T{d:a:}'"),
        (np.ones(6)[::2], ValueError, "argument 0 .*contiguous"),
        (np.ones((3, 3)).T, ValueError, "argument 0 .*contiguous"),
        ([1.0, 2.0, 3.0], TypeError, "argument 0 .*buffer, got list"),
        (None, TypeError, "argument 0 .*buffer, got NoneType"),
        (3.0, TypeError, "argument 0 .*buffer, got float"),
        (np.ones(2), ValueError, "argument 0 .*2 items, but argument 1 is 3"),
        (
            np.frombuffer(b"\0" * 25, "b")[1:].view("f8"),
            ValueError,
            "argument 0 .*aligned",
        ),
    ],
    ids=str,
)
def test_wrong_buffers_are_refused(kernel, x, error, message):
    with pytest.raises(error, match=message):
        kernel("row_sum")(x, 3)


def test_a_read_only_buffer_is_refused_where_it_may_be_written(kernel):
    x = np.ones(3)
    x.flags.writeable = False
    with pytest.raises(ValueError, match=r"argument 0 .*read-only.*const"):
        kernel("scale")(x, 3, 2.0)
    assert x.tolist() == [1, 1, 1]


def test_no_copy_is_advised_where_it_would_be_written(kernel):
    with pytest.raises(TypeError, match=r"float32, expected float64$"):
        kernel("scale")(np.ones(3, "f4"), 3, 2.0)


def test_float32_arrays_for_float_pointers(kernel):
    assert kernel("sum_f")(np.ones(7, "f4"), 7) == 7.0


def test_every_int64_dtype_is_the_same_type(kernel, functions):
    capsule_kernel = Kernel(
        functions.__pyx_capi__["fill_void"], signature="void (int64_t *, int64_t)"
    )
    for code in "lq":
        capsule_kernel(np.zeros(2, code), 2)


def test_buffers_are_let_go(kernel):
    x = bytearray(b"\x01" * 8)
    kernel("sum_bytes")(x, 8)
    with pytest.raises(ValueError, match="items"):
        kernel("sum_bytes")(x, 9)
    x.extend(b"more")  # raises BufferError while the buffer is held


def test_lengths_can_be_named_or_turned_off(kernel):
    x = np.arange(4.0)
    poly = kernel("poly")  # two integers: cypar cannot know
    assert poly.lengths == {}
    checked = kernel("poly", lengths={0: 1})
    assert checked(x, 4, 9) == sum(i**9 for i in range(4))
    with pytest.raises(ValueError, match="4 items, but argument 1 is 5"):
        checked(x, 5, 1)
    with pytest.raises(ValueError, match="positions"):
        kernel("poly", lengths={0: 0})


@pytest.mark.parametrize("lengths", ["foo", [0], {0: 1.0}, {"x": 1}, 5])
def test_lengths_that_are_no_positions(kernel, lengths):
    with pytest.raises(TypeError, match="lengths must be 'auto' or"):
        kernel("poly", lengths=lengths)


# ---- failures ------------------------------------------------------------------


def test_by_default_a_kernel_never_fails(kernel):
    assert kernel("fail_negative")(13) == -5


def test_a_negative_result(kernel):
    fail = kernel("fail_negative", errors="negative")
    assert fail(1) == 0
    with pytest.raises(KernelError, match="returned -5") as info:
        fail(13)
    assert info.value.result == -5
    assert pickle.loads(pickle.dumps(info.value)).result == -5


def test_a_python_exception(kernel):
    fail = kernel("fail_raise", errors="exception")
    assert fail(1) == 0
    with pytest.raises(ValueError, match="item 13"):
        fail(13)


def test_minus_one_can_be_a_result_too(kernel):
    fail = kernel("raise_or_minus_one", errors="exception")
    assert fail(1.0) == -1.0
    with pytest.raises(ValueError, match=r"101\.0 is too much"):
        fail(101.0)


def test_an_exception_without_a_result(kernel):
    fail = kernel("raise_void", errors="exception")
    assert fail(1) is None
    with pytest.raises(KeyError):
        fail(13)


@pytest.mark.parametrize("errors", ["none", "exception"])
def test_an_exception_counts_whether_declared_or_not(kernel, errors):
    fail = kernel("raise_undeclared", errors=errors)
    assert fail(1.0) == 2.0
    for _ in range(3):
        with pytest.raises(ValueError, match=r"101\.0 is too much") as info:
            fail(101.0)
        notes = getattr(info.value, "__notes__", [])
        undeclared = errors == "none" and sys.version_info >= (3, 11)
        assert ("errors='exception'" in "".join(notes)) == undeclared
    assert fail(1.0) == 2.0


def test_an_exception_goes_before_a_negative_result(kernel):
    fail = kernel("fail_raise", errors="negative")
    with pytest.raises(ValueError, match="item 13"):
        fail(13)


def test_a_buffer_is_let_go_after_an_exception(kernel):
    x, y, out = (array.array("d", [1.0] * 3) for _ in range(3))
    with pytest.raises(ValueError, match="factor"):
        kernel("sums_of_rows")(x, y, out, 3, -1.0)
    out.append(1.0)  # raises BufferError while the buffer is held


@pytest.mark.parametrize("errors", ["none", "exception"])
def test_an_exception_of_a_ufunc(errors):
    power = Kernel(np.power, dtype="i8", errors=errors)
    assert power(2, 3) == 8
    with pytest.raises(ValueError, match="negative integer powers"):
        power(2, -1)


def test_errors_must_make_sense(kernel):
    with pytest.raises(ValueError, match="errors must be"):
        kernel("fail_raise", errors="maybe")
    with pytest.raises(ValueError, match="never negative"):
        kernel("inc_Q", errors="negative")
    with pytest.raises(ValueError, match="errors must be"):
        kernel("fail_raise", errors=["none"])
    with pytest.raises(ValueError, match=r"ufunc 'negative' has no result"):
        Kernel(np.negative, dtype="f8", errors="negative")
