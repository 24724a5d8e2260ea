"""core/_batch: what the parent remembers of a batch that it has sent."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cypar.core._batch import Batch, read_results
from cypar.core._task_queue import ORDERED


def batch_of(n):
    return Batch([(10 + i, f"task {i}") for i in range(n)])


def run(page, worker, sequence, values, slot=0):
    page.publish(slot, sequence, len(values))
    columns = [(i,) for i in range(len(values))]
    worker.runner.run_columns(slot, sequence, values.__getitem__, columns)


# ---- Batch -----------------------------------------------------------------------


def test_a_new_batch_has_all_its_tasks_left():
    batch = batch_of(3)
    assert (batch.left, batch.n, batch.seconds) == (3, 3, 0.0)


def test_done_gives_the_index_and_forgets_the_task():
    batch = batch_of(3)
    assert batch.done(1, 0.5) == 11
    assert batch.done(0, 0.25) == 10
    assert batch.tasks == [None, None, (12, "task 2")]
    assert (batch.left, batch.n, batch.seconds) == (1, 3, 0.75)


def test_a_task_is_done_once():
    batch = batch_of(3)
    batch.done(1, 0.5)
    with pytest.raises(TypeError):
        batch.done(1, 0.5)
    assert (batch.left, batch.seconds) == (2, 0.5)


def test_tasks_taken_back_are_out_of_the_batch():
    batch = batch_of(5)
    assert batch.take_back(2, 4) == [(12, "task 2"), (13, "task 3")]
    assert (batch.left, batch.n) == (3, 3)
    with pytest.raises(TypeError):
        batch.done(2, 0.0)
    assert batch.done(4, 0.0) == 14


def test_nothing_may_be_taken_back():
    batch = batch_of(2)
    assert batch.take_back(2, 2) == []
    assert (batch.left, batch.n) == (2, 2)


@pytest.mark.parametrize("tasks", [None, (1, 2), "ab"])
def test_only_a_list_is_a_batch(tasks):
    with pytest.raises(TypeError):
        Batch(tasks)


@given(st.integers(1, 20), st.data())
def test_every_task_leaves_once(n, data):
    batch = batch_of(n)
    first = data.draw(st.integers(0, n))
    done = data.draw(st.permutations(range(first)))
    taken = [index for index, _ in batch.take_back(first, n)]
    left = [batch.done(position, 1.0) for position in done]
    assert sorted(taken + left) == [10 + i for i in range(n)]
    assert (batch.left, batch.n, batch.seconds) == (0, first, float(first))
    assert batch.tasks == [None] * n


# ---- read_results ----------------------------------------------------------------


@pytest.fixture
def outcomes(started):
    return started(20).outcomes


def test_results_go_to_the_indexes_of_their_tasks(page, worker, outcomes):
    batches = [batch_of(3), None]
    run(page, worker, 1, ["a", None, 2])
    read_results(page, batches, outcomes, None)
    assert outcomes.completed() == {10: "a", 11: None, 12: 2}


def test_an_empty_log_gives_nothing(page, outcomes):
    batches = [batch_of(1), None]
    assert read_results(page, batches, outcomes, None) == []
    assert batches[0] is not None
    assert outcomes.finished == 0


def test_results_are_read_once(page, worker, outcomes):
    batches = [batch_of(3), None]
    run(page, worker, 1, [1, 2, 3])
    read_results(page, batches, outcomes, None)
    assert read_results(page, batches, outcomes, None) == []
    assert (outcomes.finished, outcomes.dropped) == (3, 0)


def test_a_finished_batch_leaves_its_slot(page, worker, outcomes):
    first, second = Batch([(0, "a")]), Batch([(1, "b"), (2, "c")])
    batches = [first, second]
    run(page, worker, 1, ["a"], slot=0)
    run(page, worker, 1, ["b", "c"], slot=1)
    assert read_results(page, batches, outcomes, None) == [first, second]
    assert batches == [None, None]
    assert outcomes.completed() == {0: "a", 1: "b", 2: "c"}


def test_a_batch_with_tasks_left_stays(page, worker, outcomes):
    batch = batch_of(3)
    batches = [batch, None]
    page.publish(0, 1, 3)
    batch.take_back(*page.recall(0, 2))
    worker.runner.run_columns(0, 1, abs, [(-1,), (-2,), (-3,)])
    assert read_results(page, batches, outcomes, None) == [batch]
    assert outcomes.completed() == {10: 1, 11: 2}


def test_results_of_a_batch_in_progress_are_read(page, worker, outcomes):
    batch = batch_of(3)
    batches = [batch, None]
    left = []

    def task(i):
        assert read_results(page, batches, outcomes, None) == []
        left.append(batch.left)

    page.publish(0, 1, 3)
    worker.runner.run_columns(0, 1, task, [(i,) for i in range(3)])
    assert left == [3, 2, 1]
    assert batches[0] is batch
    assert read_results(page, batches, outcomes, None) == [batch]


def test_a_waiting_consumer_gets_all_results(page, worker, started):
    outcomes = started(3, ORDERED).outcomes
    taken = []

    def consume():
        for _ in range(3):
            taken.append(outcomes.take())

    thread = threading.Thread(target=consume)
    thread.start()
    run(page, worker, 1, ["a", "b", "c"])
    batches = [Batch([(i, None) for i in range(3)]), None]
    read_results(page, batches, outcomes, None)
    thread.join()
    assert taken == ["a", "b", "c"]


def test_errors_are_decoded_with_their_index(page, worker, outcomes):
    asked = []

    def decode(index, data):
        asked.append((index, data))
        return LookupError("decoded")

    batches = [batch_of(1), None]
    run(page, worker, 1, [])
    page.publish(0, 2, 1)
    worker.runner.run_columns(0, 2, lambda i: 1 / 0, [(0,)])
    assert len(read_results(page, batches, outcomes, decode)) == 1
    ((index, data),) = asked
    assert index == 10
    assert b"ZeroDivisionError" in data
    assert isinstance(outcomes.errors[10], LookupError)


def test_results_after_the_end_of_the_call_are_dropped(page, worker, started):
    call = started(20)
    call.stop()
    call.finish()
    batches = [batch_of(2), None]
    run(page, worker, 1, [1, 2])
    assert len(read_results(page, batches, call.outcomes, None)) == 1
    assert (call.outcomes.finished, call.outcomes.dropped) == (0, 2)


def test_a_result_for_a_free_slot_is_refused(page, worker, outcomes):
    run(page, worker, 1, [1])
    with pytest.raises(TypeError):
        read_results(page, [None, None], outcomes, None)
