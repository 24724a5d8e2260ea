"""Values that users give: what they mean and which are refused."""

from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from cypar import arguments
from cypar.arguments import (
    MAX_COUNT,
    check_mmap_mode,
    parse_batch_size,
    parse_inner_max_num_threads,
    parse_max_nbytes,
    parse_n_jobs,
    parse_temp_folder,
    parse_timeout,
    parse_verbose,
)


@pytest.mark.parametrize(
    ("value", "size"),
    [("auto", 0), (1, 1), (6, 6), (np.int32(6), 6), (10**40, MAX_COUNT)],
)
def test_s39_batch_size(value, size):
    assert parse_batch_size(value) == size


@pytest.mark.parametrize(
    "value", [0, -1, 2.0, "2", "Auto", None, True, [2], np.array([1, 2]), np.float64(2)]
)
def test_s39_other_batch_sizes_are_refused(value):
    with pytest.raises(ValueError, match=r"batch_size must be 'auto' or an integer"):
        parse_batch_size(value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (1, 1.0),
        (0.5, 0.5),
        (np.float32(0.5), 0.5),
        (Decimal("0.5"), 0.5),
        (float("inf"), None),
        (10**400, None),
    ],
)
def test_s34_timeout(value, seconds):
    assert parse_timeout(value) == seconds


@pytest.mark.parametrize("value", [0, -1, float("nan"), "1", True, [1.0]])
def test_s34_other_timeouts_are_refused(value):
    with pytest.raises(ValueError, match="timeout must be a number of seconds"):
        parse_timeout(value)


@pytest.mark.parametrize(
    ("value", "size_bytes"),
    [
        (None, None),
        (0, 0),
        (100, 100),
        (1e6, 1_000_000),
        (1048576.5, 1048576),
        (np.int64(5), 5),
        ("1K", 1024),
        ("1M", 2**20),
        ("2G", 2**31),
        ("1.5K", 1536),
        (".5M", 2**19),
        ("0M", 0),
        (float("inf"), None),
    ],
)
def test_s43_max_nbytes(value, size_bytes):
    assert parse_max_nbytes(value) == size_bytes


@pytest.mark.parametrize(
    "value",
    [
        "",
        "M",
        ".M",
        "1",
        "1000",
        "1m",
        "1MB",
        "1T",
        "-1M",
        "1 M",
        "1_0K",
        "nanK",
        "infM",
        "1e3K",
        "1.2.3K",
        "²K",
        -1,
        -0.5,
        float("nan"),
        True,
        False,
        [1],
        b"1M",
    ],
)
def test_s43_other_max_nbytes_are_refused(value):
    with pytest.raises(ValueError, match="max_nbytes must be a number of bytes"):
        parse_max_nbytes(value)


@pytest.mark.parametrize("mode", [None, "r", "r+", "w+", "c"])
def test_s48_mmap_modes(mode):
    assert check_mmap_mode(mode) == mode


@pytest.mark.parametrize("mode", ["", "rw", "w", "R", 1, True, ["r"], np.array(["r"])])
def test_s48_other_mmap_modes_are_refused(mode):
    with pytest.raises(ValueError, match=r"mmap_mode must be one of None, 'r'"):
        check_mmap_mode(mode)


@pytest.mark.parametrize("value", [3, 3.7, "3", np.int8(3)])
def test_s12_n_jobs(value):
    assert parse_n_jobs(value) == 3


@pytest.mark.parametrize("value", [2**31, 2**63, 10**30, "9" * 30, 1e30])
def test_s12_n_jobs_beyond_any_use(value):
    assert parse_n_jobs(value) == MAX_COUNT
    assert parse_n_jobs(-int(value)) == -MAX_COUNT


@pytest.mark.parametrize("value", [True, [2], object(), None])
def test_s12_n_jobs_of_a_wrong_type(value):
    with pytest.raises(TypeError, match="n_jobs must be an integer"):
        parse_n_jobs(value)


def test_s44_temp_folder(tmp_path):
    assert parse_temp_folder(None) is None
    assert parse_temp_folder("/somewhere") == "/somewhere"
    assert parse_temp_folder(Path("/somewhere")) == "/somewhere"
    with pytest.raises(ValueError, match="temp_folder must be a path"):
        parse_temp_folder(3)


@pytest.mark.parametrize(
    ("value", "level"), [(0, 0), (10, 10), (0.5, 0.5), (True, 1), (np.int64(5), 5)]
)
def test_s29_verbose(value, level):
    assert parse_verbose(value) == level


@pytest.mark.parametrize("value", ["10", None, float("nan"), [1]])
def test_s29_other_verbose_is_refused(value):
    with pytest.raises(ValueError, match="verbose must be a number"):
        parse_verbose(value)


def test_p05_thread_limits():
    assert parse_inner_max_num_threads(None) is None
    assert parse_inner_max_num_threads(np.int64(2)) == 2
    assert parse_inner_max_num_threads(10**30) == MAX_COUNT


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_p05_other_thread_limits_are_refused(value):
    with pytest.raises(ValueError, match="inner_max_num_threads must be an integer"):
        parse_inner_max_num_threads(value)


class Unprintable:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("short", "'short'"),
        ("x" * 100, repr("x" * 60) + "... (100 characters)"),
        (Unprintable(), "<Unprintable>"),
        (list(range(100)), repr(list(range(100)))[:60] + "..."),
    ],
)
def test_values_in_messages_are_short(value, text):
    assert arguments.shown(value) == text
