"""pre_dispatch: arithmetic over n_jobs, checked against Python's own."""

import time

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cypar.arguments import MAX_COUNT
from cypar.pre_dispatch import MAX_LENGTH, check_pre_dispatch, parse_pre_dispatch


@pytest.mark.parametrize(
    ("value", "n_jobs", "batches"),
    [
        ("all", 2, 0),
        (" all ", 2, 0),
        ("2 * n_jobs", 3, 6),
        ("2*n_jobs", 3, 6),
        ("1.5*n_jobs", 2, 3),
        ("1.5*n_jobs", 3, 4),
        ("n_jobs", 5, 5),
        ("n_jobs // 2 + 1", 5, 3),
        ("(n_jobs + 1) * 2", 2, 6),
        ("-n_jobs + 5", 2, 3),
        ("2 ** n_jobs", 3, 8),
        ("7 % n_jobs", 4, 3),
        ("10", 2, 10),
        (7, 2, 7),
        (7.9, 2, 7),
        (np.int64(7), 2, 7),
        (np.float32(7.5), 2, 7),
    ],
)
def test_s35_values(value, n_jobs, batches):
    assert parse_pre_dispatch(value, n_jobs) == batches


@pytest.mark.parametrize("value", [0.4, "0.4*n_jobs", "1/n_jobs", "n_jobs / 9"])
def test_s38_a_fraction_of_a_batch_is_one_batch(value):
    assert parse_pre_dispatch(value, 2) == 1


@pytest.mark.parametrize("value", [0, 0.0, -1, "0", "0*n_jobs", "n_jobs - 2", "-0.5"])
def test_s38_zero_or_less_is_refused_instead_of_dropping_tasks(value):
    with pytest.raises(ValueError, match="greater than 0"):
        parse_pre_dispatch(value, 2)


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "n_jobs n_jobs",
        "2n_jobs",
        "n_job",
        "2 +",
        "* 2",
        "(2",
        "2)",
        "()",
        "1.2.3",
        ".",
        "1,5",
        "1e3",
        "0x10",
        "010",
        "²",
        "\uff11",  # a full-width digit
        "1/0",
        "1 % 0",
        "0 ** -1",
        "(-8) ** 0.5",
        "n_jobs.real",
        "n_jobs if n_jobs else 1",
        "__import__('os').system('true')",
        "lambda: 2",
        "ALL",
        b"all",
        None,
        True,
        float("nan"),
        float("inf"),
        [2],
        {},
        np.array([2, 3]),
        2j,
    ],
)
def test_s38_anything_else_is_refused(value):
    with pytest.raises(ValueError, match="pre_dispatch must be"):
        parse_pre_dispatch(value, 2)


@pytest.mark.parametrize(
    "value",
    [
        "9**9**9",
        "9**9**9**9",
        "(9**50)**50",
        "99999999**-99999999",
        "2**1000000000",
        "(" * 1_000_000 + "2" + ")" * 1_000_000,
        "-" * 1_000_000 + "2",
        "9" * 1_000_000,
        "9" * MAX_LENGTH,
        "2*" * 10_000 + "2",
    ],
    ids=lambda value: value[:12],
)
def test_s38_hostile_strings_are_refused_at_once(value):
    seconds = []
    for _ in range(5):
        start = time.thread_time()
        with pytest.raises(ValueError, match="pre_dispatch") as caught:
            parse_pre_dispatch(value, 2)
        seconds.append(time.thread_time() - start)
    assert min(seconds) < 0.010
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "value", ["all", "2 * n_jobs", "n_jobs - 1", "4 / (n_jobs - 1)", 3, 0.5]
)
def test_s38_check_without_n_jobs_takes_what_may_be_right(value):
    check_pre_dispatch(value)


@pytest.mark.parametrize(
    "value", ["", "n_job", "(2", "2 +", "9" * 50, "(" * 1_000_000, 0, -1, None, [2]]
)
def test_s38_check_without_n_jobs_refuses_what_cannot_be_right(value):
    with pytest.raises(ValueError, match="pre_dispatch"):
        check_pre_dispatch(value)


def test_s38_deepest_parentheses_need_little_stack():
    value = "(" * (MAX_LENGTH // 2 - 1) + "2" + ")" * (MAX_LENGTH // 2 - 1)
    assert parse_pre_dispatch(value, 2) == 2
    with pytest.raises(ValueError, match="too early"):
        parse_pre_dispatch("(" * MAX_LENGTH, 2)


def test_error_says_what_was_wrong():
    with pytest.raises(ValueError, match=r"got '2 \* jobs': unknown name 'jobs'"):
        parse_pre_dispatch("2 * jobs", 2)


@pytest.mark.parametrize("value", [10**4000, 1e300, "10**15"])
def test_huge_numbers_are_as_good_as_the_whole_input(value):
    assert parse_pre_dispatch(value, 2) == MAX_COUNT


# Small leaves, so that no value in between can exceed the parser's bounds.
LEAVES = st.one_of(
    st.just("n_jobs"),
    st.integers(0, 20).map(str),
    st.floats(0, 20).map(lambda number: f"{number:.3f}"),
    st.tuples(st.integers(-5, 5), st.integers(-3, 3)).map("{0[0]}**{0[1]}".format),
)


def combine(parts):
    return st.one_of(
        st.builds("{}{}{}".format, parts, st.sampled_from("+-*/%"), parts),
        st.builds("{} // {}".format, parts, parts),
        st.builds("({})".format, parts),
        st.builds("-{}".format, parts),
        st.builds(" + {} ".format, parts),
    )


@given(st.recursive(LEAVES, combine, max_leaves=6), st.integers(1, 64))
def test_same_value_as_python(text, n_jobs):
    assume(len(text) <= MAX_LENGTH)
    try:
        expected = eval(text, {"__builtins__": {}, "n_jobs": n_jobs})
    except ZeroDivisionError:
        expected = 0
    assume(abs(expected) < 1e15)
    if expected > 0:
        assert parse_pre_dispatch(text, n_jobs) == min(max(int(expected), 1), MAX_COUNT)
    else:
        with pytest.raises(ValueError, match="pre_dispatch"):
            parse_pre_dispatch(text, n_jobs)


@given(st.text("n_jobs 0123456789.+-*/%()", max_size=30), st.integers(1, 64))
def test_any_string_gives_a_count_or_a_value_error(text, n_jobs):
    try:
        batches = parse_pre_dispatch(text, n_jobs)
    except ValueError:
        return
    assert 1 <= batches <= MAX_COUNT
    assert max(int(eval(text.strip(), {"n_jobs": n_jobs})), 1) == batches
