"""core/_task_queue: what a generator's consumer has not read is bounded."""

import numpy as np
import pytest

from cypar import delayed
from cypar.core._task_queue import LATER, LIST, ORDERED, UNORDERED

GENERATORS = pytest.mark.parametrize(
    "mode", [ORDERED, UNORDERED], ids=["ordered", "unordered"]
)


@GENERATORS
def test_no_task_is_started_whose_result_would_not_fit(make_call, mode):
    call = make_call([delayed(abs)(i) for i in range(10)], mode, max_unread=3)
    assert len(call.source.draw(10)) == 3
    assert call.source.draw(10) is LATER
    for index in range(3):
        call.outcomes.put(index, index)
    assert call.source.draw(10) is LATER  # finished, and still unread
    assert not call.source.has_task()
    assert call.outcomes.take() == 0
    assert len(call.source.draw(10)) == 1


def test_a_list_has_no_bound(make_call):
    tasks = [delayed(abs)(i) for i in range(10)]
    call = make_call(tasks, LIST, max_unread=1, max_unread_bytes=1)
    assert len(call.source.draw(20)) == 10


@GENERATORS
def test_the_bound_in_bytes_stops_the_start_of_tasks(make_call, mode):
    tasks = [delayed(abs)(i) for i in range(10)]
    call = make_call(tasks, mode, max_unread_bytes=100)
    call.source.draw(2)
    call.outcomes.put(0, bytes(60))
    assert len(call.source.draw(1)) == 1
    call.outcomes.put(1, bytes(40))
    assert call.source.draw(1) is LATER
    call.outcomes.take()
    assert len(call.source.draw(1)) == 1


@pytest.mark.parametrize(("max_unread", "takes"), [(1, 1), (4, 1), (8, 2), (100, 25)])
def test_a_starved_source_wakes_the_backend_after_a_quarter(
    make_call, max_unread, takes
):
    tasks = [delayed(abs)(i) for i in range(1000)]
    call = make_call(tasks, ORDERED, max_unread=max_unread)
    call.source.fill()
    assert len(call.source.draw(500)) == max_unread
    for index in range(max_unread):
        call.outcomes.put(index, index)
    assert call.source.draw(500) is LATER
    taken_at_wake = []
    call.on_wake(lambda: taken_at_wake.append(call.outcomes.delivered))
    for _ in range(max_unread):
        call.outcomes.take()
    assert taken_at_wake == [takes]


def test_a_source_that_starves_for_bytes_wakes_the_backend(make_call):
    call = make_call(
        [delayed(abs)(i) for i in range(9)], UNORDERED, max_unread_bytes=100
    )
    call.source.draw(3)
    for index, size in enumerate((20, 20, 60)):
        call.outcomes.put(index, bytes(size))
    assert call.source.draw(1) is LATER
    taken_at_wake = []
    call.on_wake(lambda: taken_at_wake.append(call.outcomes.delivered))
    call.outcomes.take()
    assert taken_at_wake == []  # 80 of 100 bytes are unread
    call.outcomes.take()
    assert taken_at_wake == [2]
    assert len(call.source.draw(1)) == 1


def test_no_wake_up_when_nobody_was_refused(started):
    call = started(3, ORDERED, max_unread=1000)
    wakes = []
    for index in range(2):
        call.outcomes.put(index, index)
    call.on_wake(lambda: wakes.append(1))
    call.outcomes.take()
    call.outcomes.take()
    assert wakes == []


class Sized:
    nbytes = 12_345


class Broken:
    @property
    def nbytes(self):
        raise RuntimeError("no idea")


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (b"x" * 500, 500),
        (bytearray(70), 70),
        ("x" * 90, 90),
        (None, 32),
        (True, 32),
        (3, 32),
        (0.5, 32),
        (Sized(), 12_345),
        (np.zeros(100), 800),
        (Broken(), 64),
        (object(), 64),
    ],
    ids=lambda value: type(value).__name__,
)
@GENERATORS
def test_sizes_of_unread_results(started, mode, value, size):
    outcomes = started(2, mode).outcomes
    outcomes.put(0, value)
    assert outcomes.unread_bytes == size
    assert outcomes.take() is value
    assert outcomes.unread_bytes == 0


def test_the_size_may_be_given(started):
    outcomes = started(1, ORDERED).outcomes
    outcomes.put(0, b"", 777)
    assert outcomes.unread_bytes == 777
