"""core/_task_queue against a plain twin: any order of draws, outcomes and returns."""

import sys
import threading
from collections import deque
from heapq import heappop, heappush

import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from cypar import delayed
from cypar.core._task_queue import END, LATER, LIST, ORDERED, UNORDERED

MODES = {"list": LIST, "ordered": ORDERED, "unordered": UNORDERED}


class Twin:
    """What TaskSource and Outcomes do, with one thread and no user code."""

    def __init__(self, n_tasks, mode, pre_dispatch, max_unread):
        self.n_tasks = n_tasks
        self.mode = mode
        self.pre_dispatch = pre_dispatch
        self.max_unread = max_unread
        self.set_batch_size(1)
        self.drawn = self.finished = self.delivered = self.dropped = 0
        self.ended = self.stopped = False
        self.fifo = deque()
        self.returned = []
        self.unread = []  # indexes, in the order in which they may be taken

    def set_batch_size(self, size):
        self.window = self.pre_dispatch * size if self.pre_dispatch else float("inf")

    def may_start(self):
        n_started = self.drawn - len(self.fifo)
        return self.mode == LIST or n_started - self.delivered < self.max_unread

    def has_room(self):
        return (
            not self.ended
            and not self.stopped
            and self.drawn - self.finished < self.window
            and (self.pre_dispatch == 0 or self.may_start())
        )

    def fill(self, enough=float("inf")):
        while len(self.fifo) < enough and self.has_room():
            if self.drawn == self.n_tasks:
                self.ended = True
            else:
                self.fifo.append(self.drawn)
                self.drawn += 1

    def draw(self, k):
        taken = []
        while self.returned and len(taken) < k:
            taken.append(heappop(self.returned))
        self.fill(k - len(taken))
        if self.stopped:
            return END
        while self.fifo and len(taken) < k and self.may_start():
            taken.append(self.fifo.popleft())
        if taken:
            return taken
        return END if self.ended and not self.fifo else LATER

    def take(self):
        """The index of the result that comes next, or None."""
        if self.mode == ORDERED:
            if self.delivered not in self.unread:
                return None
            self.unread.remove(self.delivered)
            self.delivered += 1
            return self.delivered - 1
        self.delivered += bool(self.unread)
        return self.unread.pop(0) if self.unread else None


class Driver(RuleBasedStateMachine):
    """A backend that does what hypothesis chooses."""

    make_call = None  # set by the fixture

    @initialize(
        mode=st.sampled_from(sorted(MODES)),
        n_tasks=st.integers(0, 40),
        pre_dispatch=st.integers(0, 4),
        max_unread=st.integers(1, 12),
    )
    def start(self, mode, n_tasks, pre_dispatch, max_unread):
        self.twin = Twin(n_tasks, MODES[mode], pre_dispatch, max_unread)
        self.call = self.make_call(
            self.input(n_tasks),
            MODES[mode],
            pre_dispatch=pre_dispatch,
            max_unread=max_unread,
        )
        self.running = {}  # index -> payload
        self.finished = []
        self.taken = []

    def input(self, n_tasks):
        for i in range(n_tasks):
            # what the window promises, wherever the iterator is asked
            source = self.call.source
            assert source.drawn - self.call.outcomes.finished < source.window
            yield delayed(abs)(i)

    # ---- rules ---------------------------------------------------------------------

    @rule()
    def fill(self):
        self.call.source.fill()
        self.twin.fill()
        self.agree()

    @rule(k=st.integers(1, 6))
    def draw(self, k):
        self.draw_some(k)

    def draw_some(self, k):
        drawn = self.call.source.draw(k)
        expected = self.twin.draw(k)
        if drawn is END or drawn is LATER:
            assert drawn is expected
        else:
            assert drawn == [(i, delayed(abs)(i)) for i in expected]
            assert not self.running.keys() & dict(drawn).keys()
            self.running.update(drawn)
        self.agree()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def put(self, data):
        self.finish(data.draw(st.sampled_from(sorted(self.running))))

    def finish(self, index):
        del self.running[index]
        self.call.outcomes.put(index, index * 10)
        self.finished.append(index)
        self.twin.finished += 1
        self.twin.unread.append(index)
        self.agree()

    @precondition(lambda self: self.finished)
    @rule(data=st.data(), error=st.booleans())
    def put_again(self, data, error):
        index = data.draw(st.sampled_from(self.finished))
        if error:
            self.call.outcomes.put_error(index, ValueError(index))
        else:
            self.call.outcomes.put(index, "again")
        self.twin.dropped += 1
        self.agree()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def give_back(self, data):
        indexes = data.draw(st.sets(st.sampled_from(sorted(self.running))))
        self.call.source.give_back([(i, self.running.pop(i)) for i in indexes])
        for index in indexes:
            heappush(self.twin.returned, index)
        self.agree()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), unlikely=st.integers(0, 9))
    def put_error(self, data, unlikely):
        assume(unlikely == 9)
        index = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[index]
        self.call.outcomes.put_error(index, ValueError(index))
        self.twin.finished += 1
        self.twin.stopped = True
        assert self.call.stopping == "abort"
        self.agree()

    @rule(size=st.integers(1, 5))
    def set_batch_size(self, size):
        self.call.source.set_batch_size(size)
        self.twin.set_batch_size(size)

    @precondition(lambda self: self.twin.mode != LIST)
    @rule()
    def read(self):
        self.take()

    def take(self):
        index = self.twin.take()
        if index is not None:
            self.taken.append(index)
            assert self.call.outcomes.take() == index * 10
        elif self.call.outcomes.done:
            with pytest.raises(StopIteration):
                self.call.outcomes.take()
        self.agree()
        return index

    # ---- checks ---------------------------------------------------------------------

    def agree(self):
        source, outcomes, twin = self.call.source, self.call.outcomes, self.twin
        assert (source.drawn, source.pending) == (twin.drawn, len(twin.fifo))
        assert source.ended == twin.ended
        assert outcomes.finished == twin.finished
        assert outcomes.dropped == twin.dropped
        if twin.mode != LIST:
            assert outcomes.delivered == twin.delivered
        all_finished = twin.ended and twin.finished == twin.drawn
        assert outcomes.done == (all_finished and not twin.stopped)

    def teardown(self):
        """Run the call to its end: every task has had exactly one outcome."""
        if not hasattr(self, "call") or self.twin.stopped:
            return
        outcomes = self.call.outcomes
        n_left = 1
        while n_left:
            for index in list(self.running):
                self.finish(index)
            while self.twin.mode != LIST and self.take() is not None:
                pass
            self.draw_some(3)
            n_left = len(self.running)
        assert outcomes.done
        everything = [*range(self.twin.n_tasks)]
        assert outcomes.finished == self.twin.n_tasks
        if self.twin.mode == LIST:
            assert outcomes.results == [i * 10 for i in everything]
        elif self.twin.mode == ORDERED:
            assert self.taken == everything
        else:
            assert sorted(self.taken) == everything


@pytest.fixture
def _driver_makes_calls(make_call):
    Driver.make_call = staticmethod(make_call)


@pytest.mark.usefixtures("_driver_makes_calls")
class TestDriver(Driver.TestCase):
    settings = settings(max_examples=25, stateful_step_count=40)


@pytest.mark.parametrize("mode", sorted(MODES))
def test_many_threads_give_each_task_one_outcome(make_call, mode):
    n_tasks, n_threads = 1000, 4
    call = make_call(
        (delayed(abs)(i) for i in range(n_tasks)),
        MODES[mode],
        pre_dispatch=7,
        max_unread=20,
    )

    def worker(k):
        while (tasks := call.source.draw(k)) is not END:
            if tasks is LATER:
                continue
            if tasks[0][0] % 5 == 0 and len(tasks) > 1:
                call.source.give_back(tasks[1:])
                tasks = tasks[:1]
            for index, _ in tasks:
                call.outcomes.put(index, index)

    threads = [threading.Thread(target=worker, args=(k + 1,)) for k in range(n_threads)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    for thread in threads:
        thread.start()
    if mode == "list":
        call.outcomes.wait()
        results = call.outcomes.results
    else:
        results = list(iter_results(call.outcomes))
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    if mode == "unordered":
        results.sort()
    assert results == [*range(n_tasks)]
    assert (call.outcomes.finished, call.outcomes.dropped) == (n_tasks, 0)


def iter_results(outcomes):
    while True:
        try:
            value = outcomes.take()
        except StopIteration:
            return
        yield value
