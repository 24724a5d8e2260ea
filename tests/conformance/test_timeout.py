"""`timeout`: S34."""

import concurrent.futures
import multiprocessing
import time

import pytest

from cypar import Parallel, TaskTimeout, delayed


def test_s34_three_timeout_errors(parallel_engine, signals):
    parallel = parallel_engine.parallel(timeout=0.2)
    start = time.monotonic()
    try:
        with pytest.raises(TaskTimeout) as caught:
            parallel(
                delayed(signals.wait if i == 3 else time.sleep)("go" if i == 3 else 0)
                for i in range(8)
            )
    finally:
        signals.set("go")
    assert time.monotonic() - start < 5
    for kind in (
        TimeoutError,
        multiprocessing.TimeoutError,
        concurrent.futures.TimeoutError,
    ):
        assert isinstance(caught.value, kind)
    assert "task 3" in str(caught.value)
    assert parallel([delayed(abs)(-1)]) == [1]


@pytest.mark.slow
def test_s34_counts_from_the_start_of_the_task(parallel_engine):
    """Tasks that wait for their turn longer than the limit are not late."""
    out = parallel_engine.parallel(timeout=0.5, pre_dispatch="all", batch_size=4)(
        delayed(time.sleep)(0.1) for _ in range(16)
    )
    assert out == [None] * 16


def test_s34_fast_tasks_are_not_late(engine):
    out = engine.parallel(timeout=30)(delayed(abs)(i) for i in range(500))
    assert out == list(range(500))


def test_s34_one_job_has_no_timeout():
    assert Parallel(n_jobs=1, timeout=1e-6)([delayed(time.sleep)(0.002)]) == [None]


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
@pytest.mark.parametrize("name", ["threading", "processes"])
def test_s34_in_generator_modes(name, return_as, signals):
    generator = Parallel(n_jobs=2, backend=name, timeout=0.2, return_as=return_as)(
        [delayed(abs)(-1), delayed(signals.wait)("go")]
    )
    try:
        assert next(generator) == 1
        with pytest.raises(TimeoutError):
            next(generator)
    finally:
        signals.set("go")


@pytest.mark.parametrize("value", [0, -1, "1", float("nan"), []])
def test_s34_bad_values(engine, value):
    with pytest.raises(ValueError, match="timeout"):
        engine.parallel(timeout=value)
