"""core/_status_page, the result log: what tasks return gets to the parent, once."""

import enum
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cypar.core._batch import Batch, give, read_results
from cypar.core._process_loop import BatchRunner
from cypar.core._status_page import (
    KIND_ERROR,
    KIND_PICKLE,
    LOG_BYTES,
    MAX_LOG_RESULT,
    StatusPage,
)
from cypar.core._task_queue import LIST, ORDERED

HEADER_BYTES = 16


class Color(enum.IntEnum):
    RED = 1


class Real(float):
    pass


VALUES = [
    None,
    True,
    False,
    0,
    -1,
    2**62 - 1,
    2**62,
    -(2**62),
    2**63,
    -(2**63) - 1,
    10**40,
    0.0,
    -0.0,
    1e-320,
    math.pi,
    math.inf,
    -math.inf,
    math.nan,
    "text",
    b"",
    b"\0" * 100,
    (),
    [1, [2.0, None]],
    {"a": 1},
    1j,
    Color.RED,
    Real(2.5),
    np.float64(2.5),
    np.int8(3),
    ...,
]


class Parent:
    """The parent's side: one batch of tasks in a slot, and a call's outcomes."""

    def __init__(self, page, worker, started, n, mode=LIST):
        self.page = page
        self.worker = worker
        self.outcomes = started(n, mode).outcomes
        self.batches = [Batch([(i, f"task {i}") for i in range(n)]), None]
        self.finished = []
        self.n_sent = 0
        page.publish(0, 1, n)

    def read_log(self):
        self.finished += read_results(
            self.page, self.batches, self.outcomes, self.decode_error
        )

    def read(self):
        """Take what is in the log and what was sent."""
        self.read_log()
        sent = self.worker.sent[self.n_sent :]
        self.n_sent += len(sent)
        for slot, position, kind, data in sent:
            batch = self.batches[slot]
            index = batch.done(position, 0.0)
            if batch.left == 0:
                self.batches[slot] = None
                self.finished.append(batch)
            give(self.outcomes, index, kind, data, self.decode_error)

    def decode_error(self, index, data):
        return ValueError(index, bytes(data))


@pytest.fixture
def run_values(page, worker, started):
    """Return a function: let tasks return values; returns the `Parent`, all read."""

    def run(values):
        parent = Parent(page, worker, started, len(values))
        worker.runner.run_columns(0, 1, values.__getitem__, columns(len(values)))
        parent.read()
        return parent

    return run


def columns(n):
    return [(i,) for i in range(n)]


def same(a, b):
    return type(a) is type(b) and repr(a) == repr(b)


# ---- values ----------------------------------------------------------------------


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back_as_it_was(run_values, worker, value):
    parent = run_values([value])
    assert worker.sent == []
    assert same(parent.outcomes.results[0], value)
    assert parent.outcomes.done


@given(st.lists(st.one_of(st.integers(), st.floats(), st.text(), st.booleans())))
def test_values_come_back_in_their_places(make_worker, started, values):
    page = StatusPage()
    worker = make_worker(page)
    parent = Parent(page, worker, started, len(values))
    worker.runner.run_columns(0, 1, values.__getitem__, columns(len(values)))
    parent.read()
    assert len(parent.outcomes.results) == len(values)
    assert all(map(same, parent.outcomes.results, values))


def test_numbers_are_not_pickled(page, started, worker):
    def refuse(value):
        raise AssertionError(f"{value!r} was pickled")

    runner = BatchRunner(page, refuse, refuse, int, refuse)
    values = [None, True, False, 5, -(2**62) + 1, 2.5, math.nan]
    parent = Parent(page, worker, started, len(values))
    runner.run_columns(0, 1, values.__getitem__, columns(len(values)))
    parent.read()
    assert all(map(same, parent.outcomes.results, values))


def test_the_bytes_of_a_pickled_result_count_as_its_size(page, worker, started):
    parent = Parent(page, worker, started, 2, ORDERED)
    values = [[bytes(1000)], 7]
    worker.runner.run_columns(0, 1, values.__getitem__, columns(2))
    parent.read()
    assert parent.outcomes.unread_bytes == len(pickle.dumps(values[0])) + 32


# ---- room ------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "is_sent"), [(0, False), (1, True)])
def test_a_large_result_is_sent(run_values, worker, size, is_sent):
    overhead = len(pickle.dumps(bytes(8000))) - 8000
    value = bytes(MAX_LOG_RESULT - overhead + size)
    parent = run_values([value])
    assert parent.outcomes.results == [value]
    assert bool(worker.sent) == is_sent


@pytest.mark.parametrize(
    ("value", "record_bytes"), [(None, 16), (True, 16), (7, 32), (0.5, 32)], ids=repr
)
def test_what_does_not_fit_into_a_full_log_is_sent(
    run_values, worker, value, record_bytes
):
    n_fitting = LOG_BYTES // record_bytes
    parent = run_values([value] * (n_fitting + 3))
    positions = [position for _, position, _, _ in worker.sent]
    assert positions == [*range(n_fitting, n_fitting + 3)]
    assert parent.outcomes.results == [value] * (n_fitting + 3)


def test_a_log_that_was_read_has_room_again(page, worker, started):
    n = LOG_BYTES // 32
    parent = Parent(page, worker, started, 3 * n)

    def task(i):
        if i % n == 0:
            parent.read_log()
        return i

    worker.runner.run_columns(0, 1, task, columns(3 * n))
    parent.read()
    assert worker.sent == []
    assert parent.outcomes.results == [*range(3 * n)]


class LogTwin:
    """Which records find room, in plain Python."""

    def __init__(self):
        self.begin = self.end = 0

    def read(self):
        self.begin = self.end

    def append(self, size):
        need = HEADER_BYTES + (size + 15) // 16 * 16
        tail = LOG_BYTES - self.end % LOG_BYTES
        skipped = tail if tail < need else 0  # a record is in one piece
        if self.end - self.begin + skipped + need > LOG_BYTES:
            return False
        self.end += skipped + need
        return True

    def takes(self, value):
        """Whether a result goes into the log."""
        if value is None:
            if self.append(0):
                return True
        elif type(value) is int and self.append(8):
            return True
        size = len(pickle.dumps(value))
        return size <= MAX_LOG_RESULT and self.append(size)


@given(
    values=st.lists(
        st.one_of(
            st.integers(0, 9000).map(bytes),
            st.integers(MAX_LOG_RESULT - 40, MAX_LOG_RESULT).map(bytes),
            st.none(),
            st.integers(0, 100),
        ),
        max_size=60,
    ),
    reads=st.sets(st.integers(0, 60), max_size=10),
)
def test_records_of_any_size_wrap_around(make_worker, started, values, reads):
    page = StatusPage()
    worker = make_worker(page)
    parent = Parent(page, worker, started, len(values))
    twin = LogTwin()
    expected_sent = []

    def task(i):
        if i in reads:
            parent.read_log()
            twin.read()
        if not twin.takes(values[i]):
            expected_sent.append(i)
        return values[i]

    worker.runner.run_columns(0, 1, task, columns(len(values)))
    parent.read()
    assert [position for _, position, _, _ in worker.sent] == expected_sent
    assert parent.outcomes.results == values
    assert parent.outcomes.dropped == 0


# ---- errors ------------------------------------------------------------------------


def test_an_error_goes_through_the_log(page, worker, started):
    def fail(i):
        raise KeyError(i)

    parent = Parent(page, worker, started, 2)
    worker.runner.run_columns(0, 1, fail, columns(2))
    parent.read()
    expected = repr((KeyError(1), fail, (1,), {})).encode()
    assert parent.outcomes.errors[1].args == (1, expected)
    assert worker.sent == []


def test_a_large_error_is_sent(page, worker, started):
    def fail(i):
        raise KeyError("x" * MAX_LOG_RESULT)

    parent = Parent(page, worker, started, 1)
    worker.runner.run_columns(0, 1, fail, columns(1))
    ((slot, position, kind, _),) = worker.sent
    assert (slot, position, kind) == (0, 0, KIND_ERROR)
    parent.read()
    assert isinstance(parent.outcomes.first_error(), ValueError)


def test_a_result_that_cannot_be_pickled_is_an_error_of_its_task(page, worker, started):
    values = [1, lambda: 1, 3]
    parent = Parent(page, worker, started, 3)
    worker.runner.run_columns(0, 1, values.__getitem__, columns(3))
    parent.read()
    assert list(parent.outcomes.errors) == [1]
    assert "pickle" in str(parent.outcomes.errors[1])


def test_a_result_that_cannot_be_loaded_is_an_error_of_its_task(started):
    outcomes = started(2).outcomes
    give(outcomes, 1, KIND_PICKLE, b"no pickle", None)
    assert isinstance(outcomes.errors[1], pickle.UnpicklingError)


def test_results_on_the_socket_may_be_any_bytes(started):
    outcomes = started(3, ORDERED).outcomes
    for index, kind in enumerate((bytes, bytearray, memoryview)):
        give(outcomes, index, KIND_PICKLE, kind(pickle.dumps(index)), None)
    assert [outcomes.take() for _ in range(3)] == [0, 1, 2]
