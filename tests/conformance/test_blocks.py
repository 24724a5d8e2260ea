"""Workers are kept: S14, S27, S28."""

import os
import threading
from math import sqrt

import pytest

from cypar import Parallel, delayed


def fail():
    raise LookupError("in the block")


def workers(parallel, signals, name):
    """Run two tasks that meet; returns the identities of their workers."""
    return set(parallel(delayed(signals.meet)(name, 2) for _ in range(2)))


@pytest.mark.parametrize("name", ["processes", "loky", "threading"])
def test_s14_workers_are_reused_without_a_block(name, signals):
    first = workers(Parallel(n_jobs=2, backend=name), signals, "first")
    assert len(first) == 2
    assert workers(Parallel(n_jobs=2, backend=name), signals, "second") == first


def test_s27_block_keeps_its_workers(parallel_engine, signals):
    with parallel_engine.parallel() as parallel:
        first = workers(parallel, signals, "first")
        assert len(first) == 2
        assert workers(parallel, signals, "second") == first


def test_s27_accumulator(engine):
    with engine.parallel() as parallel:
        accumulator, n_iter = 0.0, 0
        while accumulator < 1000:
            results = parallel(delayed(sqrt)(accumulator + i**2) for i in range(5))
            accumulator += sum(results)
            n_iter += 1
    assert (pytest.approx(accumulator, abs=1e-3), n_iter) == (1136.596, 14)


def test_s27_blocks_nest(engine):
    with engine.parallel() as outer:
        with engine.parallel() as inner:
            assert inner([delayed(abs)(-1)]) == [1]
        assert outer([delayed(abs)(-2)]) == [2]


def test_s28_object_works_after_the_block(engine):
    with engine.parallel() as parallel:
        assert parallel([delayed(abs)(-1)]) == [1]
    assert parallel([delayed(abs)(-2)]) == [2]
    with parallel:
        assert parallel([delayed(abs)(-3)]) == [3]


def test_s28_object_works_after_an_exception(engine):
    with engine.parallel() as parallel:
        for _ in range(3):
            with pytest.raises(LookupError):
                parallel([delayed(abs)(1), delayed(fail)(), delayed(abs)(1)])
            assert parallel(delayed(abs)(-i) for i in range(9)) == list(range(9))


def test_s28_block_may_end_with_an_exception(engine):
    with pytest.raises(LookupError), engine.parallel() as parallel:
        parallel([delayed(fail)()])
    assert parallel([delayed(abs)(-1)]) == [1]


def test_s28_multiprocessing_workers_end_with_the_block(process_engine, signals):
    if process_engine.name != "multiprocessing":
        return  # the warm pool keeps its own
    with process_engine.parallel() as parallel:
        ids = workers(parallel, signals, "met")
    pids = {int(me.split("-")[0]) for me in ids}
    assert os.getpid() not in pids
    signals.until(
        lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids),
        "the end of the workers",
    )
    assert threading.active_count() >= 1
