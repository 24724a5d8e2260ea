"""core/_batch_estimator: how many tasks make a batch of a good length."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cypar.core._batch_estimator import BatchEstimator

TARGET_DISPATCHES = 50.0
MAX_SECONDS = 0.5
DECAY = 0.9
MAX_GROWTH = 4
MAX_SIZE = 512

seconds_of_a_task = st.floats(1e-9, 100.0)
batches = st.lists(st.tuples(st.integers(1, 1000), st.floats(0.0, 1e4)), max_size=40)


class Twin:
    """The same estimate in plain Python."""

    def __init__(self, dispatch_seconds):
        self.target = min(TARGET_DISPATCHES * dispatch_seconds, MAX_SECONDS)
        self.size = 1
        self.task_seconds = None
        self.longest = 0.0

    def observe(self, n_tasks, seconds):
        mean = seconds / n_tasks
        if self.task_seconds is None:
            self.task_seconds = mean
        else:
            weight = 1.0 - DECAY ** min(n_tasks, 8)
            self.task_seconds += weight * (mean - self.task_seconds)
        self.longest = max(self.longest * DECAY, mean)
        task = max(self.task_seconds, self.longest / 2)
        fitting = MAX_SIZE
        if task * MAX_SIZE > self.target:
            fitting = math.floor(self.target / task)
        self.size = max(1, min(fitting, MAX_GROWTH * self.size))
        return self.size


@given(batches, st.floats(1e-6, 0.1))
def test_agrees_with_plain_python(observed, dispatch_seconds):
    estimator, twin = BatchEstimator(dispatch_seconds), Twin(dispatch_seconds)
    for n_tasks, seconds in observed:
        size = estimator.observe(n_tasks, seconds)
        expected = twin.observe(n_tasks, seconds)
        # rounding may differ where target / task is next to a whole number
        assert abs(size - expected) <= 1
        twin.size = size
        assert estimator.size == size
    assert estimator.n_observed == sum(n_tasks for n_tasks, _ in observed)
    assert estimator.task_seconds == pytest.approx(twin.task_seconds or 0.0, rel=1e-6)


@pytest.mark.parametrize(
    ("task_seconds", "expected_size"),
    [(1e-7, 512), (1e-5, 300), (1e-4, 30), (1e-3, 3), (0.1, 1), (100.0, 1)],
)
def test_size_settles_on_the_target(task_seconds, expected_size):
    estimator = BatchEstimator(dispatch_seconds=60e-6)  # batches of 3 ms
    size = 1
    for _ in range(20):
        size = estimator.observe(size, size * task_seconds)
    assert size == pytest.approx(expected_size, abs=1)


@given(seconds_of_a_task)
def test_a_batch_lasts_about_the_target_and_never_half_a_second(task_seconds):
    estimator = BatchEstimator(dispatch_seconds=1.0)  # asks for 50 s
    size = 1
    for _ in range(20):
        size = estimator.observe(size, size * task_seconds)
    assert size == 1 or size * task_seconds <= 0.5 * 1.001


@given(batches)
def test_size_stays_in_its_bounds_and_grows_by_steps(observed):
    estimator = BatchEstimator()
    size = 1
    for n_tasks, seconds in observed:
        new = estimator.observe(n_tasks, seconds)
        assert 1 <= new <= min(MAX_SIZE, MAX_GROWTH * size)
        size = new


def test_one_long_batch_is_remembered():
    estimator = BatchEstimator(dispatch_seconds=60e-6)
    for _ in range(10):
        size = estimator.observe(100, 100 * 1e-5)
    assert size == 300
    estimator.observe(1, 0.1)
    after = estimator.observe(100, 100 * 1e-5)
    assert after < 5  # the mean is small again, and one task took 0.1 s
    for _ in range(200):
        size = estimator.observe(100, 100 * 1e-5)
    assert size == pytest.approx(300, abs=1)


def test_tasks_that_take_no_time_go_in_the_largest_batches():
    estimator = BatchEstimator()
    for _ in range(10):
        size = estimator.observe(1, 0.0)
    assert size == MAX_SIZE


def test_a_new_estimator_sends_single_tasks():
    estimator = BatchEstimator()
    assert (estimator.size, estimator.task_seconds) == (1, 0.0)
    assert estimator.dispatch_seconds == 60e-6
    assert estimator.n_observed == 0


@pytest.mark.parametrize("dispatch_seconds", [0.0, -1.0, math.nan])
def test_a_dispatch_cost_that_is_not_positive_is_refused(dispatch_seconds):
    with pytest.raises(ValueError, match="dispatch_seconds must be positive, got"):
        BatchEstimator(dispatch_seconds)


@pytest.mark.parametrize("n_tasks", [0, -1])
def test_an_empty_batch_is_refused(n_tasks):
    with pytest.raises(ValueError, match=f"at least 1, got {n_tasks}"):
        BatchEstimator().observe(n_tasks, 1.0)


@pytest.mark.parametrize("seconds", [-1e-9, math.nan])
def test_a_time_that_is_not_positive_is_refused(seconds):
    with pytest.raises(ValueError, match="seconds must not be negative, got"):
        BatchEstimator().observe(1, seconds)


@pytest.mark.parametrize("arguments", [("x", 1.0), (1, "x"), (1,), (1.5, 1.0)])
def test_other_types_are_refused(arguments):
    with pytest.raises(TypeError):
        BatchEstimator().observe(*arguments)
