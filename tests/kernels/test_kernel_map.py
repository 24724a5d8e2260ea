"""Kernel.map: one loop over the rows of arrays."""

import ctypes
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cypar import Kernel, KernelError
from cypar.core._thread_limits import limits_for


@pytest.fixture
def x():
    return np.random.default_rng(1).random((500, 7))


@pytest.mark.parametrize("n_jobs", [1, 2, -1, 5, 10**30, -(10**30)])
def test_rows_and_a_number(kernel, x, n_jobs):
    result = kernel("row_sum").map(x, 7, n_jobs=n_jobs)
    assert result.dtype == np.float64
    assert result.tolist() == [kernel("row_sum")(row, 7) for row in x]


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[::2],
        lambda x: x[::-1],
        lambda x: x[:, :5],
        lambda x: x[100:100],
        lambda x: x[:1],
        lambda x: np.broadcast_to(x[3], (50, 7)),
    ],
    ids=["stride", "backwards", "columns", "empty", "one", "repeated"],
)
def test_strided_rows(kernel, x, view):
    rows = view(x)
    n = rows.shape[1]
    expected = [kernel("row_sum")(np.ascontiguousarray(row), n) for row in rows]
    assert kernel("row_sum").map(rows, n).tolist() == expected


def test_two_arrays_and_one_that_is_repeated(kernel, x):
    centre = np.broadcast_to(x[0], x.shape)
    result = kernel("distance").map(x, centre, 7)
    np.testing.assert_allclose(result, np.linalg.norm(x - x[0], axis=1))


def test_numbers_from_arrays(kernel):
    a = np.arange(100)
    result = kernel("mix6").map(a, 2.0, a[::-1], 4.0, a * 0.5, 6)
    assert result.tolist() == [
        kernel("mix6")(i, 2.0, 99 - i, 4.0, i * 0.5, 6) for i in range(100)
    ]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("inc_q", "i8"), ("inc_Q", "u8"), ("neg_i", "i4"), ("inc_u", "u4"),
        ("inc_h", "i2"), ("inc_H", "u2"), ("inc_b", "i1"), ("inc_B", "u1"),
    ],
)  # fmt: skip
def test_every_type_of_number(kernel, name, dtype):
    a = np.arange(100).astype(dtype)
    result = kernel(name).map(a)
    assert result.dtype == np.dtype(dtype)
    assert result.tolist() == [kernel(name)(i) for i in range(100)]


def test_one_dimension_behind_a_pointer_is_rows_of_one(kernel):
    a = np.arange(10.0)
    assert kernel("row_sum").map(a, 1).tolist() == a.tolist()


def test_rows_that_are_written(kernel, x):
    copy = x.copy()
    assert kernel("scale").map(copy, 7, np.arange(500.0)) is None
    np.testing.assert_array_equal(copy, x * np.arange(500.0)[:, None])


def test_rows_of_different_lengths(kernel, x):
    lengths = np.arange(500) % 8
    result = kernel("row_sum").map(x, lengths)
    assert result.tolist() == [
        kernel("row_sum")(x[i], int(n)) for i, n in enumerate(lengths)
    ]
    lengths[77] = 8
    with pytest.raises(ValueError, match=r"rows of argument 0 .* have 7 items.* is 8"):
        kernel("row_sum").map(x, lengths)


@pytest.mark.parametrize(
    "out", [np.zeros(500), np.zeros(1000)[::2], np.zeros((500, 3))[:, 1]]
)
def test_out(kernel, x, out):
    assert kernel("row_sum").map(x, 7, out=out) is out
    assert out.tolist() == kernel("row_sum").map(x, 7).tolist()


@pytest.mark.parametrize(
    ("x", "out"),
    [
        (slice(0, 100), slice(1, 101)),
        (slice(1, 101), slice(0, 100)),
        (slice(0, 100), slice(99, None, -1)),
        (slice(0, 100), slice(99, 199)),
        (slice(0, 200, 2), slice(0, 100)),
        (slice(0, 200, 2), slice(2, 202, 2)),
    ],
    ids=str,
)
def test_out_may_not_overlap_an_input(x, out):
    memory = np.arange(300.0)
    x = memory[x]
    out = memory[:100][::-1] if out.step == -1 else memory[out]
    before = memory.copy()
    for copy in (Kernel(np.negative, dtype="f8"), Kernel(np.add, dtype="f8")):
        others = [1.0] * (len(copy.argument_texts) - 1)
        with pytest.raises(ValueError, match=r"out overlaps argument 0 "):
            copy.map(x, *others, out=out)
        if others:
            with pytest.raises(ValueError, match=r"out overlaps argument 1 "):
                copy.map(1.0, x, out=out)
    assert memory.tolist() == before.tolist()


def test_out_may_not_overlap_rows(kernel):
    memory = np.ones((60, 5))
    for out in (memory.ravel()[:60], memory[:, 0], memory[:, 4], memory[::-1, 2]):
        with pytest.raises(ValueError, match=r"out overlaps argument 0 "):
            kernel("row_sum").map(memory, 5, out=out)
    with pytest.raises(ValueError, match=r"out overlaps argument 0 "):
        kernel("row_sum").map(np.broadcast_to(memory[3], (60, 5)), 5, out=memory[:, 0])


def test_out_may_be_the_input_or_another_column(kernel):
    memory = np.arange(60.0).reshape(12, 5)
    expected = memory.copy()
    expected[:, 4] = memory[:, :4].sum(axis=1)
    kernel("row_sum").map(memory[:, :4], 4, out=memory[:, 4])
    expected[::-1, 0] = -expected[::-1, 1]
    negative = Kernel(np.negative, dtype="f8")
    negative.map(memory[::-1, 1], out=memory[::-1, 0])
    expected[:, 2] = -expected[:, 2]
    negative.map(memory[:, 2], out=memory[:, 2])
    np.testing.assert_array_equal(memory, expected)
    half = kernel("row_sum").map(memory[:, 3:4], 1, out=memory[:, 3])
    np.testing.assert_array_equal(half, expected[:, 3])
    negative.map(memory[:1, 0], out=memory[0, :1])
    assert memory[0, 0] == -expected[0, 0]
    negative.map(memory[:0, 0], out=memory[:0, 0])


@given(data=st.data())
@settings(max_examples=200)
def test_out_is_refused_where_it_would_matter(functions, data):
    """Rows of bytes and int64 results in one memory, at any place and stride."""
    memory = np.arange(64 * 8, dtype="u1")
    width = data.draw(st.integers(1, 24))
    n, step, out_step = (data.draw(st.integers(1, 6)) for _ in range(3))
    begin = data.draw(st.integers(0, 200))
    out_begin = data.draw(st.integers(0, 25))
    x = np.lib.stride_tricks.as_strided(
        memory[begin:], (n, width), (8 * step, 1), writeable=False
    )
    out = memory.view("i8")[out_begin:][: out_step * n : out_step]
    same = width == 8 and begin == 8 * out_begin and (n == 1 or step == out_step)
    kernel = Kernel(functions, "sum_bytes")
    expected = kernel.map(x.copy(), width).tolist()
    try:
        kernel.map(x, width, out=out)
    except ValueError:
        assert not same
        assert np.shares_memory(x, out) or step != out_step  # then bounds will do
    else:
        assert same or not np.shares_memory(x, out)
        assert out.tolist() == expected


def test_other_buffers(kernel):
    rows = memoryview(bytes(range(12))).cast("B", (4, 3))
    assert kernel("sum_bytes").map(rows, 3).tolist() == [3, 12, 21, 30]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"x": np.ones((5, 3), "f4")}, TypeError, r"argument 0 .*astype\('float64'\)"),
        ({"x": np.ones((5, 3), "M8[s]")}, TypeError, "argument 0 .*'M'"),
        ({"x": np.ones((3, 5)).T}, ValueError, "rows of argument 0 .*contiguous"),
        ({"x": np.float64(3)}, ValueError, "argument 0 .*no dimension"),
        ({"x": [[1.0]]}, TypeError, "argument 0 .*must be an array"),
        ({"n": np.ones(4, "i8")}, ValueError, "argument 1 .*4 rows.*have 5"),
        ({"n": np.ones(5, "i4")}, TypeError, r"argument 1 .*astype\('int64'\)"),
        ({"n": np.ones((5, 1), "i8")}, ValueError, "argument 1 .*one dimension"),
        ({"n": 4}, ValueError, "3 items, but argument 1 is 4"),
        ({"n": 1.5}, TypeError, "argument 1 .*integer"),
        ({"out": np.ones(5, "f4")}, TypeError, "out has .* float32, expected float64$"),
        ({"out": [0.0] * 5}, TypeError, "out must be an array, got list"),
        ({"out": np.ones(5, "M8[s]")}, TypeError, "out does not offer .*'M'"),
        ({"out": np.ones(4)}, ValueError, "out has 4 rows"),
        ({"out": np.ones((5, 1))}, ValueError, "out must have one dimension"),
        (
            {"out": np.broadcast_to(1.0, 5)},
            ValueError,
            "out is read-only, but the results",
        ),
        ({"grain": 0}, ValueError, "grain .* positive integer or None, got 0"),
        ({"grain": -1}, ValueError, "grain .* got -1"),
        ({"grain": 2.5}, TypeError, "grain, .* positive integer or None, got 2.5"),
        ({"grain": "8"}, TypeError, "grain, .* got '8'"),
        ({"n_jobs": 0}, ValueError, "n_jobs"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(kernel, change, error, match):
    change = dict(change)
    x, n = change.pop("x", np.ones((5, 3))), change.pop("n", 3)
    with pytest.raises(error, match=match):
        kernel("row_sum").map(x, n, **change)


def test_items_without_bytes_are_refused(kernel):
    fill = kernel("fill_void", lengths={})
    with pytest.raises(ValueError, match=r"argument 0 .*items of 0 bytes"):
        fill.map(np.zeros((3, 2), "V0"), 0)


def test_something_must_be_mapped_over(kernel):
    with pytest.raises(TypeError, match=r"no argument .* is an array"):
        kernel("half").map(3.0)
    with pytest.raises(TypeError, match="takes 1 arguments, 2 were given"):
        kernel("half").map(np.ones(3), 1)


def test_no_result_no_out(kernel, x):
    with pytest.raises(TypeError, match="has no result"):
        kernel("scale").map(x, 7, 1.0, out=np.zeros(500))


def test_read_only_rows_are_refused_where_they_may_be_written(kernel, x):
    x.flags.writeable = False
    kernel("row_sum").map(x, 7)
    with pytest.raises(ValueError, match="read-only"):
        kernel("scale").map(x, 7, 1.0)


# ---- failures ------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_a_negative_result_names_the_row(kernel, n_jobs):
    fail = kernel("fail_negative", errors="negative")
    with pytest.raises(KernelError, match="for row 13") as info:
        fail.map(np.arange(1000), n_jobs=n_jobs, grain=1)
    assert info.value.row == 13


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_an_exception_of_a_row(kernel, n_jobs):
    fail = kernel("fail_raise", errors="exception")
    for _ in range(50):
        with pytest.raises(ValueError, match=r"item \d*13"):
            fail.map(np.arange(1000), n_jobs=n_jobs, grain=1)


@pytest.mark.parametrize("n_jobs", [1, 3])
@pytest.mark.parametrize("errors", ["none", "exception"])
def test_an_exception_counts_whether_declared_or_not(kernel, n_jobs, errors):
    fail = kernel("raise_undeclared", errors=errors)
    for _ in range(20):
        with pytest.raises(ValueError, match=r"^101\.0 is too much"):
            fail.map(np.full(1000, 101.0), n_jobs=n_jobs, grain=1)
    assert fail.map(np.ones(50)).tolist() == [2.0] * 50


@pytest.mark.parametrize("n_jobs", [1, 3])
@pytest.mark.parametrize("errors", ["none", "exception"])
def test_an_exception_of_a_ufunc(n_jobs, errors):
    power = Kernel(np.power, dtype="i8", errors=errors)
    for _ in range(20):
        with pytest.raises(ValueError, match="negative integer powers"):
            power.map(np.full(1000, 2), np.full(1000, -1), n_jobs=n_jobs, grain=1)
    assert power.map(np.arange(50), 1).tolist() == list(range(50))


def test_limits_of_threads_are_given_back_with_an_exception_set(functions):
    limits, others = limits_for(2), limits_for(2)
    with pytest.raises(KeyError):
        functions.call_with_exception_set(limits.begin)
    limits.begin()
    with pytest.raises(KeyError):
        functions.call_with_exception_set(limits.end)
    others.begin()  # hangs where the lock was kept
    others.end()


def test_minus_one_can_be_a_result(kernel):
    good = kernel("raise_or_minus_one", errors="exception")
    assert good.map(np.ones(50)).tolist() == [-1.0] * 50


# ---- ufuncs --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sqrt", "exp", "sin", "cbrt", "arctan", "negative"])
@pytest.mark.parametrize("n_jobs", [1, 3])
def test_ufuncs_give_the_same_bits(name, n_jobs):
    x = np.random.default_rng(0).random(10_001)
    ufunc = getattr(np, name)
    result = Kernel(ufunc, dtype="f8").map(x, n_jobs=n_jobs, grain=64)
    np.testing.assert_array_equal(result, ufunc(x))


def test_ufuncs_with_numbers_strides_and_other_results():
    x = np.arange(1000.0)
    greater = Kernel(np.greater, dtype="f8").map(x[::-2], 500.0)
    assert greater.dtype == np.bool_
    np.testing.assert_array_equal(greater, x[::-2] > 500.0)
    out = np.zeros(1000)[::2]
    Kernel(np.hypot, dtype="f8").map(x[::2], x[1::2], out=out)
    np.testing.assert_array_equal(out, np.hypot(x[::2], x[1::2]))


@given(
    n=st.integers(0, 400),
    n_columns=st.integers(1, 5),
    step=st.sampled_from([1, 2, -1, -3]),
    n_jobs=st.integers(1, 4),
    grain=st.one_of(st.none(), st.integers(1, 100)),
)
@settings(max_examples=100)
def test_map_equals_a_loop(functions, n, n_columns, step, n_jobs, grain):
    kernel = Kernel(functions, "row_sum")
    x = np.random.default_rng(n).random((n, n_columns))[::step]
    result = kernel.map(x, n_columns, n_jobs=n_jobs, grain=grain)
    assert result.tolist() == [kernel(row.copy(), n_columns) for row in x]


# ---- threads -------------------------------------------------------------------


def test_rows_run_at_the_same_time(kernel, functions):
    functions.take_counts()
    kernel("sleep_ms").map(np.full(40, 5), n_jobs=4, grain=1)
    n_calls, most = functions.take_counts()
    assert n_calls == 40
    assert 2 <= most <= 4


def test_openmp_is_limited_in_each_worker_and_nowhere_else(functions, run_script):
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        pytest.skip("needs OpenMP")
    run_script(f"""
import cypar.core.cpu as cpu
cpu.cpu_count = lambda: 8
import ctypes, sys
sys.path.insert(0, {str(Path(functions.__file__).parent)!r})
import numpy as np
from cypar import Kernel
gomp = ctypes.CDLL("libgomp.so.1")
gomp.omp_set_num_threads(6)
address = ctypes.cast(gomp.omp_get_max_threads, ctypes.c_void_p).value
n_openmp = Kernel("kernel_functions", "call_int").map
rows = np.full(1000, address)
# the caller had 6; a helper, if one comes, as many as there are processors
assert max(n_openmp(rows, n_jobs=2, grain=1).tolist()) == 4
assert set(n_openmp(rows, n_jobs=1).tolist()) == {{6}}
assert gomp.omp_get_max_threads() == 6
fail = Kernel("kernel_functions", "raise_undeclared")
try:
    fail.map(np.full(1000, 101.0), n_jobs=2, grain=1)
except ValueError as exc:
    assert str(exc) == "101.0 is too much"
assert gomp.omp_get_max_threads() == 6
""")


def test_maps_from_many_threads(kernel, x):
    expected = kernel("row_sum").map(x, 7).tolist()
    wrong = []

    def work():
        for _ in range(50):
            if kernel("row_sum").map(x, 7, n_jobs=3).tolist() != expected:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
