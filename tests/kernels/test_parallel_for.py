"""cypar.nogil.parallel_for: every item once, on several threads, without the GIL."""

import array
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cypar.core import _helper_threads


def zeros(n):
    return array.array("i", [0] * n)


# ---- coverage ----------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [1, 2, 5, -1, 0])
@pytest.mark.parametrize("n", [1, 2, 3, 17, 1000, 100_000])
@pytest.mark.parametrize("gil", [True, False])
def test_every_item_is_done_once(bodies, n, n_jobs, gil):
    counts = zeros(n)
    bodies.cover(counts, n, 0, n_jobs, gil)
    assert counts == array.array("i", [1] * n)


@given(
    n=st.integers(0, 3000),
    grain=st.integers(-1, 400),
    n_jobs=st.integers(-3, 8),
    burn=st.sampled_from([0, 20]),
)
@settings(max_examples=150)
def test_any_grain_and_n_jobs_cover_the_range(bodies, n, grain, n_jobs, burn):
    counts = zeros(n + 1)
    n_chunks = bodies.cover(counts, n, grain, n_jobs, burn=burn)
    assert list(counts) == [1] * n + [0]
    if grain > 0:
        assert n_chunks <= -(-n // grain)


@pytest.mark.parametrize("n", [0, -1, -(2**62)])
def test_an_empty_range_calls_nothing(bodies, n):
    counts = zeros(1)
    assert bodies.cover(counts, n) == 0
    assert counts[0] == 0


def test_slots_are_below_the_worker_count(bodies):
    counts, slots = zeros(20_000), zeros(20_000)
    bodies.cover(counts, len(counts), 1, 4, slots=slots, burn=100)
    assert set(slots) <= set(range(bodies.count_workers(4)))


def test_outside_of_loops_there_is_slot_0_and_no_cancellation(bodies):
    assert bodies.slot_outside() == (0, False)


def test_worker_count_is_what_n_jobs_means(bodies, monkeypatch):
    n_cpus = bodies.count_workers(-1)
    assert n_cpus >= 1
    assert bodies.count_workers(0) == n_cpus
    assert bodies.count_workers(-2) == max(n_cpus - 1, 1)
    assert bodies.count_workers(-1000) == 1
    assert bodies.count_workers(7) == 7


# ---- threads -------------------------------------------------------------------


@pytest.mark.parametrize("gil", [True, False])
@pytest.mark.parametrize("n", [2, 4])
def test_items_run_at_the_same_time(bodies, n, gil):
    """Also in the very first loop, before any helper thread exists."""
    _helper_threads.retire()
    assert bodies.meet(n, n, gil) == n
    assert bodies.meet(n, n, gil) == n


def test_helpers_are_the_threads_of_the_thread_backend(bodies):
    assert bodies.meet(3, 3) == 3
    n_live = _helper_threads.live_count()
    names = set()
    barrier = threading.Barrier(3)
    for _ in range(2):
        _helper_threads.run(
            lambda parker: (
                names.add(threading.current_thread().name),
                barrier.wait(),
            )
        )
    barrier.wait()
    assert _helper_threads.live_count() == n_live
    assert all(name.startswith("cypar-worker-") for name in names)


def test_bodies_run_on_threads_that_own_a_thread_state(bodies):
    names = set()
    barrier = threading.Barrier(3)

    def note(begin, end):
        names.add(threading.current_thread().name)
        barrier.wait()

    bodies.call_at_once(note, 3)
    assert len(names) == 3
    assert "MainThread" in names


def test_the_gil_is_free_meanwhile(bodies):
    """Another Python thread runs while the caller is in the loop."""
    ticks = []
    stop = threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(time.monotonic())
            stop.wait(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    begin = time.monotonic()
    bodies.sleep_items(20, 5000, 1)
    end = time.monotonic()
    stop.set()
    thread.join()
    assert sum(begin < t < end for t in ticks) > 5


def test_loops_from_many_threads_at_once(bodies):
    def loop(counts):
        for _ in range(30):
            bodies.cover(counts, len(counts), 0, 3, burn=50)

    counts = [zeros(500) for _ in range(6)]
    threads = [threading.Thread(target=loop, args=(c,)) for c in counts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(set(c) == {30} for c in counts)


def test_more_jobs_than_processors_all_work(bodies):
    assert bodies.meet(12, 12) == 12


def test_n_jobs_is_a_maximum(bodies):
    counts, slots = zeros(5000), zeros(5000)
    bodies.meet(6, 6)  # there are idle helpers
    bodies.cover(counts, len(counts), 1, 2, slots=slots, burn=200)
    assert set(slots) <= {0, 1}


def test_short_loops_in_a_row_get_a_helper(bodies):
    """Each of them alone would not be worth starting a thread."""
    counts = zeros(32)
    bodies.cover_often(counts, 32, 2, 1000, 10)  # what an item costs is known now
    _helper_threads.retire()
    deadline = time.monotonic() + 30
    while _helper_threads.live_count() == 0:
        bodies.cover_often(counts, 32, 2, 1000, 100)
        assert time.monotonic() < deadline
    assert len(set(counts)) == 1


def test_short_loops_now_and_then_start_no_helper(bodies):
    counts = zeros(32)
    bodies.cover_often(counts, 32, 2, 200, 10)
    _helper_threads.retire()
    for _ in range(100):
        threading.Event().wait(0.001)
        bodies.cover_often(counts, 32, 2, 200, 1)
    assert _helper_threads.live_count() == 0


# ---- nesting -------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [2, 3, -1])
@pytest.mark.parametrize(
    ("n", "inner", "depth"), [(200, 64, 1), (2, 640, 1), (640, 2, 1), (8, 8, 3)]
)
def test_nested_loops_end_and_do_everything(bodies, n, inner, depth, n_jobs):
    assert bodies.nest(n, inner, depth, n_jobs, burn=20) == n * inner**depth


def test_a_slot_is_the_same_after_a_nested_loop(bodies):
    assert bodies.slots_changed_by_nesting(200, 3) == 0


def test_nested_loops_from_tasks_of_the_thread_backend(bodies):
    from cypar import Parallel, delayed

    calls = (delayed(bodies.nest)(20, 20, 1, -1, 20) for _ in range(20))
    assert Parallel(n_jobs=2, backend="threading")(calls) == [400] * 20


def test_workers_count_against_one_budget(bodies):
    """All processors are taken by tasks: loops inside them get no helper."""
    from cypar import Parallel, cpu_count, delayed

    n_jobs = cpu_count()
    barrier = threading.Barrier(n_jobs)

    def task():
        barrier.wait()
        counts, slots = zeros(5000), zeros(5000)
        bodies.cover(counts, len(counts), 1, -1, slots=slots, burn=500)
        barrier.wait()
        return set(slots)

    found = Parallel(n_jobs=n_jobs, backend="threading")(
        delayed(task)() for _ in range(n_jobs)
    )
    assert found == [{0}] * n_jobs
