"""pre_dispatch and batch_size: S35-S41; tasks that meet."""

import contextlib
import os
import threading

import pytest

from cypar import delayed


def worker_and(value):
    return os.getpid(), threading.get_ident(), value


@pytest.mark.parametrize(
    ("pre_dispatch", "n"), [(1, 1), (3, 3), ("1.5*n_jobs", 3), ("2*n_jobs", 4)]
)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_s36_window_counts_batches(
    parallel_engine, pre_dispatch, n, batch_size, signals
):
    """Filled before the first task starts, then never more than the window ahead."""
    window, ahead, early = n * batch_size, [], []

    def producer():
        for i in range(10 * window):
            started = len(signals.notes("run"))
            ahead.append(i + 1 - started)
            if i < window:
                early.append(started)
            yield delayed(signals.note)("run", i)

    parallel_engine.parallel(pre_dispatch=pre_dispatch, batch_size=batch_size)(
        producer()
    )
    assert early == [0] * window
    assert max(ahead) == window
    assert sorted(map(int, signals.notes("run"))) == list(range(10 * window))


def test_s37_all_drains_the_input_first(parallel_engine, signals):
    at_the_end = []

    def producer():
        for i in range(200):
            yield delayed(signals.note)("run", i)
        at_the_end.extend(signals.notes("run"))

    parallel_engine.parallel(pre_dispatch="all")(producer())
    assert at_the_end == []
    assert len(signals.notes("run")) == 200


@pytest.mark.parametrize("value", [0, "0", "0.4*n_jobs", 0.5, "n_jobs - 2"])
def test_s38_what_truncates_to_zero_drops_no_task(engine, value):
    with contextlib.suppress(ValueError):  # refused, or at least one batch
        out = engine.parallel(pre_dispatch=value)(delayed(abs)(i) for i in range(5))
        assert out == list(range(5))


@pytest.mark.parametrize(
    "value", ["__import__('os')", "n_jobs.real", "two", "", "n_jobs ** 2.5j", [], None]
)
def test_s38_arithmetic_only(engine, value):
    with pytest.raises((ValueError, TypeError), match="pre_dispatch"):
        engine.parallel(pre_dispatch=value)([delayed(abs)(1)])


@pytest.mark.parametrize("value", [0, -1, "two", 1.5, None])
def test_s39_batch_size_must_be_auto_or_positive(engine, value):
    with pytest.raises(ValueError, match="batch_size"):
        engine.parallel(batch_size=value)


@pytest.mark.parametrize("batch_size", [3, 7])
def test_s39_a_worker_runs_so_many_consecutive_tasks(parallel_engine, batch_size):
    parallel = parallel_engine.parallel(batch_size=batch_size)
    with parallel:
        parallel(delayed(worker_and)(i) for i in range(4 * batch_size))  # warm
        out = parallel(delayed(worker_and)(i) for i in range(60 * batch_size))
    # Near the end an idle worker may take over what another has not begun.
    chunks = [
        {who[:2] for who in out[start : start + batch_size]}
        for start in range(0, 40 * batch_size, batch_size)
    ]
    whole = sum(len(chunk) == 1 for chunk in chunks)
    assert whole >= 38  # a task that was interrupted for long may lose its batch


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100, "auto"])
@pytest.mark.parametrize("n", [1, 9, 10, 11])
def test_s40_batches_change_no_result(engine, batch_size, n):
    out = engine.parallel(batch_size=batch_size)(delayed(abs)(-i) for i in range(n))
    assert out == list(range(n))


def test_s40_fast_tasks_and_then_some_that_meet(parallel_engine, signals):
    """Batches have grown by then; still no task waits behind an unrelated one."""

    def tasks():
        for i in range(100):
            yield delayed(abs)(i)
        for _ in range(2):
            yield delayed(signals.meet)("met", 2)

    out = parallel_engine.parallel()(tasks())
    assert len(set(out[100:])) == 2


def test_s40_threads_meet_at_a_barrier(shared_engine):
    n_jobs = 1 if shared_engine.name == "sequential" else 3
    barrier = threading.Barrier(n_jobs)

    def tasks():
        for i in range(100):
            yield delayed(abs)(i)
        for _ in range(n_jobs):
            yield delayed(barrier.wait)(10)

    out = shared_engine.parallel(n_jobs)(tasks())
    assert sorted(out[100:]) == list(range(n_jobs))


def test_s40_a_long_task_holds_up_none_behind_it(parallel_engine, signals):
    """Many short tasks, one that waits for the last of all of them."""
    n = 300

    def task(i):
        if i == 100:
            signals.until(lambda: len(signals.notes("run")) >= n - 1, "all others")
        signals.note("run", i)
        return i

    out = parallel_engine.parallel(pre_dispatch="all")(
        delayed(task)(i) for i in range(n)
    )
    assert out == list(range(n))


def test_s41_one_more_per_completion(parallel_engine, signals):
    """While no task ends, nothing more is drawn than the window."""
    drawn = []

    def producer():
        for i in range(12):
            drawn.append(i)
            yield delayed(signals.wait)("go")

    def release():
        signals.until(lambda: len(drawn) >= 5, "the first draws")
        counts.append(len(drawn))
        signals.set("go")

    counts = []
    thread = threading.Thread(target=release)
    thread.start()
    parallel_engine.parallel(pre_dispatch=5, batch_size=1)(producer())
    thread.join()
    assert counts == [5]
    assert len(drawn) == 12
