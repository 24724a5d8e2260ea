"""Shared memory follows the tasks in flight, is used again, and is given back."""

import gc
import os
import sys
import time

import numpy as np
import pytest

from cypar import Parallel, WorkerCrash, delayed
from cypar.backends.pool.supervisor import pool
from cypar.core._parcel import Parcel
from cypar.transport.memory import CallMemory

M = 1 << 20


def total(array):
    return float(array.sum())


def live_segments(arena):
    return [s for s in arena.segments if s.pins or s.is_leased()]


def settle(condition, deadline_s=5.0):
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline
        gc.collect()
        time.sleep(0.005)


def test_eight_views_of_one_array_share_a_segment(fresh_arena):
    array = np.random.default_rng(0).random(4 * M // 8)
    views = [array[i:] for i in range(8)]
    expected = [float(view.sum()) for view in views]
    out = Parallel(n_jobs=2)(delayed(total)(view) for view in views)
    assert out == expected
    assert fresh_arena.counters.cold == 1
    assert fresh_arena.counters.warm == 0
    assert len(fresh_arena.segments) == 1
    assert fresh_arena.total_bytes == 4 * M


@pytest.mark.parametrize("alive", [False, True])
def test_distinct_arrays_peak_at_the_tasks_in_flight(fresh_arena, alive):
    n, size = 100, 2 * M // 8
    kept = [np.full(size, float(i)) for i in range(n)] if alive else None

    def tasks():
        for i in range(n):
            yield delayed(total)(kept[i] if alive else np.full(size, float(i)))

    run = Parallel(n_jobs=2, batch_size=1)
    assert run(tasks()) == [float(i * size) for i in range(n)]
    counters = fresh_arena.counters
    # 2 * n_jobs batches may be drawn; one more copy is made while the last ones end
    assert counters.peak_bytes <= 6 * 2 * M
    assert counters.cold <= 6
    assert counters.cold + counters.warm == n


@pytest.mark.parametrize("most", [2 * M + 1, 5 * M], ids=["equal", "unequal"])
def test_the_second_call_uses_warm_segments(fresh_arena, most):
    sizes = [int(x) for x in np.random.default_rng(0).integers(2 * M, most, 40)]

    def tasks():
        for i, size in enumerate(sizes):
            yield delayed(total)(np.full(size // 8, float(i)))

    expected = [float(i * (size // 8)) for i, size in enumerate(sizes)]
    run = Parallel(n_jobs=2, batch_size=1)
    assert run(tasks()) == expected
    counters = fresh_arena.counters
    assert counters.warm >= 20
    n_first = counters.cold
    counters.cold = counters.warm = 0
    assert run(tasks()) == expected
    if most == 5 * M:
        # up to six are there at once, and each may have to grow; once, mostly
        assert counters.cold <= 10
        assert counters.warm >= 30
    else:
        assert n_first + counters.cold <= 6


def test_large_results_do_not_hold_up_the_memory_of_arguments(fresh_arena):
    def tasks():
        for i in range(40):
            yield delayed(lambda a: a + 1)(np.full(2 * M // 8, float(i)))

    out = Parallel(n_jobs=2, batch_size=1)(tasks())
    assert [result[0] for result in out] == [i + 1 for i in range(40)]
    assert fresh_arena.counters.cold <= 7


def test_arrays_used_in_turn_are_copied_twice_at_most(fresh_arena):
    """More arrays than tasks in flight, each used again and again."""
    arrays = [np.full(2 * M // 8, float(i)) for i in range(12)]
    run = Parallel(n_jobs=2, batch_size=1)
    out = run(delayed(total)(arrays[i % 12]) for i in range(120))
    assert out == [float((i % 12) * 2 * M // 8) for i in range(120)]
    counters = fresh_arena.counters
    assert counters.cold + counters.warm <= 30
    assert counters.reused >= 90


def test_nothing_is_pinned_or_leased_after_a_call(fresh_arena):
    run = Parallel(n_jobs=2)
    run(delayed(total)(np.ones(M)) for _ in range(10))
    settle(lambda: not live_segments(fresh_arena))


@pytest.mark.parametrize(
    ("how", "error"),
    [("raise", RuntimeError), ("kill", WorkerCrash), ("pickle", TypeError)],
)
def test_nothing_is_pinned_or_leased_after_an_error(fresh_arena, how, error):
    def fail(array, i):
        if i == 7:
            if how == "kill":
                os._exit(3)
            if how == "pickle":
                return sys._getframe()
            raise RuntimeError(float(array[0]))
        return float(array.sum())

    run = Parallel(n_jobs=2, batch_size=1)
    for _ in range(3):
        with pytest.raises(error):
            run(delayed(fail)(np.full(M, float(i)), i) for i in range(40))
        settle(lambda: not live_segments(fresh_arena))
    run(delayed(total)(np.ones(M)) for _ in range(4))
    assert all(not s.retired for s in fresh_arena.segments if s.entries)


def test_an_error_does_not_keep_its_arguments(fresh_arena):
    """Not even one whose traceback is in a reference cycle."""

    def fail(array):
        try:
            raise KeyError(1)
        except KeyError as error:
            kept = error  # noqa: F841 (frame -> error -> traceback -> frame)
            raise ValueError("x") from error

    for i in range(5):
        with pytest.raises(ValueError, match="x"):
            Parallel(n_jobs=2)(delayed(fail)(np.full(M, float(i))) for _ in range(2))
        settle(lambda: not live_segments(fresh_arena))


def test_a_reference_cycle_in_tasks_is_collected_when_memory_gets_tight(fresh_arena):
    def cycle(array):
        loop = [array]
        loop.append(loop)
        return float(array[0])

    def tasks():
        for i in range(100):
            yield delayed(cycle)(np.full(8 * M // 8, float(i)))

    out = Parallel(n_jobs=2, batch_size=1)(tasks())
    assert out == [float(i) for i in range(100)]
    assert fresh_arena.counters.peak_bytes < 300 * M  # of 800


def test_idle_memory_is_capped(fresh_arena):
    fresh_arena.max_idle_bytes = 10 * M
    arrays = [np.full(4 * M // 8, float(i)) for i in range(8)]
    run = Parallel(n_jobs=2, pre_dispatch="all", batch_size=1)
    run(delayed(total)(a) for a in arrays)
    settle(lambda: fresh_arena.trim() or fresh_arena.total_bytes <= 10 * M)
    # least recently used first: the last arrays are still there
    assert fresh_arena.total_bytes >= 4 * M


def test_over_the_cap_cached_memory_is_given_up_first(fresh_arena, warnings_anew):
    fresh_arena.max_bytes = 40 * M
    arrays = [np.full(8 * M // 8, float(i)) for i in range(12)]
    run = Parallel(n_jobs=2, batch_size=1)
    out = run(delayed(total)(arrays[i % 12]) for i in range(60))
    assert out == [float((i % 12) * M) for i in range(60)]
    assert fresh_arena.counters.peak_bytes <= 40 * M


def test_descriptors_and_memory_after_200_calls(fresh_arena):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    def shared_bytes():
        with open("/proc/self/smaps_rollup") as file:
            lines = dict(line.split(":") for line in file if ":" in line)
        return int(lines["Pss_Shmem"].split()[0]) * 1024

    run = Parallel(n_jobs=2)
    run(delayed(total)(np.ones(M)) for _ in range(4))
    before = descriptors()
    for i in range(200):
        size = M // 4 + i * 100
        out = run(delayed(total)(np.full(size, 1.0)) for _ in range(3))
        assert out == [size] * 3
    assert descriptors() <= before + 4
    assert fresh_arena.total_bytes <= 40 * M
    pool.shutdown()
    settle(lambda: fresh_arena.trim(0) or not fresh_arena.segments)
    assert shared_bytes() < 4 * M


def test_a_worker_unmaps_what_the_parent_has_no_more(fresh_arena):
    def mapped(array):
        with open("/proc/self/maps") as file:
            return os.getpid(), sum("memfd:cypar-segment" in line for line in file)

    run = Parallel(n_jobs=2, batch_size=1)
    fresh_arena.max_idle_bytes = 0
    for i in range(30):
        out = run(delayed(mapped)(np.full(M // 4 + i * 1000, 1.0)) for _ in range(4))
        assert max(n for _, n in out) <= 8  # of this call and of the one before


def test_a_parcel_pins_its_segments(fresh_arena):
    memory = CallMemory(1000, "r")
    _, parcel = memory.dumps([np.ones(M), np.zeros(M)])
    assert type(parcel) is Parcel
    assert [s.pins for s in fresh_arena.segments] == [1, 1]
    del parcel
    assert [s.pins for s in fresh_arena.segments] == [0, 0]
    memory.close()
