"""How far ahead of the workers the input of thread workers is drawn."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cypar import Parallel, delayed
from cypar.core._draw_pace import DrawPace

MAX_WINDOW = 1024
WINDOW_NS = 2e6
BURST_NS = 200e3


class PlainPace:
    """The same rule, written plainly."""

    def __init__(self, pre_dispatch):
        self.pre_dispatch = pre_dispatch
        self.size = 1
        self.last = None
        self.draw_ns = 0.0

    def observe(self, n_finished, now_ns):
        if self.last is not None and n_finished > self.last[0]:
            task_ns = (now_ns - self.last[1]) / (n_finished - self.last[0])
            window = min(
                MAX_WINDOW,
                WINDOW_NS / max(task_ns, 1.0),
                BURST_NS / max(self.draw_ns, 1.0),
            )
            self.size = max(1, min(int(window / self.pre_dispatch), 4 * self.size))
        self.last = (n_finished, now_ns)
        return self.size

    def observe_draw(self, n_tasks, spent_ns):
        if n_tasks:
            self.draw_ns = spent_ns / n_tasks


steps = st.lists(
    st.tuples(
        st.integers(0, 1000),  # tasks that were finished since
        st.integers(1, 10**9),  # ns that have gone by
        st.integers(0, 300),  # tasks that were drawn then
        st.integers(1, 10**8),  # ns that drawing them took
    ),
    max_size=30,
)


@given(pre_dispatch=st.integers(1, 1000), steps=steps)
def test_pace_follows_the_plain_rule(pre_dispatch, steps):
    ours, plain = DrawPace(pre_dispatch), PlainPace(pre_dispatch)
    finished, now = 0, 1
    for done, passed, drawn, spent in steps:
        finished += done
        now += passed
        assert ours.observe(finished, now) == plain.observe(finished, now)
        assert ours.size * pre_dispatch <= max(MAX_WINDOW, pre_dispatch)
        ours.observe_draw(drawn, spent)
        plain.observe_draw(drawn, spent)


def test_long_tasks_are_not_drawn_ahead():
    pace = DrawPace(4)
    assert [pace.observe(n, n * 1_000_000) for n in (1, 100, 200)] == [1, 1, 1]


def test_slow_iterator_is_not_drawn_ahead():
    pace = DrawPace(4)
    pace.observe(1, 1)
    pace.observe_draw(1, 50_000)
    assert pace.observe(1000, 1000) == 1


def test_bad_pre_dispatch():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        DrawPace(0)


class Input:
    """An input that knows how far ahead of the finished tasks it was drawn."""

    def __init__(self, n):
        self.n = n
        self.lock = threading.Lock()
        self.finished = 0
        self.most = 0

    def __iter__(self):
        for i in range(self.n):
            self.most = max(self.most, i + 1 - self.finished)
            yield delayed(self.task)(i)

    def task(self, i):
        with self.lock:
            self.finished += 1
        return i


@pytest.mark.parametrize(
    "exact", [{"pre_dispatch": 4}, {"batch_size": 1}, {"pre_dispatch": "2*n_jobs"}]
)
def test_what_the_user_sets_is_kept_exactly(exact):
    tasks = Input(5000)
    parallel = Parallel(n_jobs=2, prefer="threads", **exact)
    assert parallel(tasks) == list(range(5000))
    # a task counts as finished for the window just after it counts for itself here
    assert tasks.most <= 4


def test_short_tasks_are_drawn_ahead_within_the_bound():
    tasks = Input(20_000)
    assert Parallel(n_jobs=2, prefer="threads")(tasks) == list(range(20_000))
    assert tasks.most <= MAX_WINDOW


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_streams_of_short_tasks(return_as):
    tasks = Input(20_000)
    results = Parallel(n_jobs=2, prefer="threads", return_as=return_as)(tasks)
    assert sorted(results) == list(range(20_000))
