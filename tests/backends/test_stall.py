"""The no-progress detector: a hang of cypar's own becomes an error with stacks."""

import threading

import pytest

from cypar import NoProgressError, Parallel, delayed
from cypar.backends import stall, threads
from cypar.backends.stall import StallWatch


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def looks(watch, clock, n, seconds=5.0, stalled=True, progress=0):
    """Look n times; returns what the last look said."""
    for _ in range(n):
        clock.now += seconds
        found = watch.is_over_limit(stalled, progress)
    return found


def test_thirty_seconds_of_stalling_are_over_the_limit(clock):
    watch = StallWatch(clock)
    assert not looks(watch, clock, 1)  # begins to count
    assert not looks(watch, clock, 5)
    assert looks(watch, clock, 1)


def test_any_progress_begins_anew(clock):
    watch = StallWatch(clock)
    looks(watch, clock, 6)
    assert not looks(watch, clock, 1, progress=1)
    assert not looks(watch, clock, 5, progress=1)
    assert looks(watch, clock, 1, progress=1)


def test_a_busy_worker_begins_anew(clock):
    watch = StallWatch(clock)
    looks(watch, clock, 6)
    assert not looks(watch, clock, 100, stalled=False)
    assert not looks(watch, clock, 5)


def test_days_of_work_are_no_stall(clock):
    assert not looks(StallWatch(clock), clock, 10, seconds=86400.0, stalled=False)


def test_time_for_which_the_process_was_stopped_does_not_count(clock):
    watch = StallWatch(clock)
    looks(watch, clock, 2)
    assert not looks(watch, clock, 1, seconds=3600.0)
    assert watch.stalled_s == 15.0


@pytest.fixture
def quick_watch(monkeypatch):
    monkeypatch.setattr(stall, "LIMIT_S", 0.3)
    monkeypatch.setattr(stall, "CHECK_S", 0.05)
    monkeypatch.setattr(threads, "CHECK_S", 0.05)


@pytest.mark.parametrize("mode", ["list", "generator", "generator_unordered"])
def test_threads_that_leave_a_task_behind(quick_watch, monkeypatch, mode):
    work = threads.work

    def lazy(call, parker):
        call.source.draw(1)  # taken, and never run
        work(call, parker)

    monkeypatch.setattr(threads, "work", lazy)
    with pytest.raises(NoProgressError) as caught:
        list(
            Parallel(n_jobs=2, prefer="threads", return_as=mode)(
                delayed(abs)(-i) for i in range(10)
            )
        )
    for part in ("10 were drawn", "thread MainThread", "in test_threads_that_leave"):
        assert part in str(caught.value)


@pytest.mark.parametrize("where", ["task", "input", "reader"])
def test_what_takes_long_on_threads_is_no_hang(quick_watch, where):
    wait = threading.Event().wait

    def task(i):
        if i == 2 and where == "task":
            wait(0.8)
        return i

    def tasks():
        for i in range(4):
            if i == 2 and where == "input":
                wait(0.8)
            yield delayed(task)(i)

    out = []
    for i in Parallel(n_jobs=2, prefer="threads", return_as="generator")(tasks()):
        out.append(i)
        if i == 1 and where == "reader":
            wait(0.8)
    assert out == list(range(4))
