"""core/_process_loop: a worker process runs a batch and says what came of it."""

import pickle
import time
import weakref

import pytest

from cypar.core._batch import Batch, read_results
from cypar.core._process_loop import BatchRunner


@pytest.fixture
def outcomes_of(page, started):
    """Return a function: read the log of a batch of n tasks; returns the outcomes."""

    def read(n):
        outcomes = started(n).outcomes
        batches = [Batch([(i, None) for i in range(n)]), None]
        read_results(page, batches, outcomes, lambda index, data: ValueError(data))
        return outcomes

    return read


def test_tasks_are_loaded_one_by_one(page, worker, outcomes_of):
    log = []

    def load(position):
        log.append(f"load {position}")
        return log.append, (f"run {position}",), {}

    page.publish(0, 1, 2)
    worker.runner.run_tasks(0, 1, load)
    assert log == ["load 0", "run 0", "load 1", "run 1"]
    assert outcomes_of(2).results == [None, None]


def test_tasks_may_have_functions_and_keywords_of_their_own(page, worker, outcomes_of):
    tasks = [(max, (1, 2), {}), (dict, (), {"a": 1}), (int, ("11",), {"base": 2})]
    page.publish(0, 1, 3)
    worker.runner.run_tasks(0, 1, tasks.__getitem__)
    assert outcomes_of(3).results == [2, {"a": 1}, 3]


def test_an_error_says_what_was_called(page, worker, outcomes_of):
    tasks = [(int, ("x",), {"base": 2})]
    page.publish(0, 1, 1)
    worker.runner.run_tasks(0, 1, tasks.__getitem__)
    error = outcomes_of(1).first_error()
    assert b"ValueError" in error.args[0]
    assert error.args[0].endswith(b"<class 'int'>, ('x',), {'base': 2})")


def test_a_task_that_cannot_be_loaded_fails_alone(page, worker, outcomes_of):
    def load(position):
        if position == 1:
            raise ImportError("no such module")
        return abs, (-position,), {}

    page.publish(0, 1, 3)
    worker.runner.run_tasks(0, 1, load)
    outcomes = outcomes_of(3)
    assert list(outcomes.errors) == [1]
    assert (
        outcomes.errors[1].args[0]
        == repr((ImportError("no such module"), None, (), {})).encode()
    )


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_whatever_a_task_raises_the_batch_goes_on(page, worker, outcomes_of, kind):
    ran = []

    def task(i):
        ran.append(i)
        raise kind

    page.publish(0, 1, 3)
    worker.runner.run_columns(0, 1, task, [(i,) for i in range(3)])
    assert ran == [0, 1, 2]
    outcomes_of(3)


def test_the_parent_is_told_at_the_end(page, worker):
    told = []
    worker.on_flush = lambda: told.append(page.claimed(0))
    page.publish(0, 1, 5)
    worker.runner.run_columns(0, 1, abs, [(i,) for i in range(5)])
    assert told[-1] == 5


def test_the_parent_is_told_of_results_that_have_waited(page, worker):
    told = []
    worker.on_flush = lambda: told.append(page.claimed(0))

    def task(i):
        until = time.monotonic_ns() + (1_500_000 if i == 2 else 0)
        while time.monotonic_ns() < until:
            pass

    page.publish(0, 1, 5)
    worker.runner.run_columns(0, 1, task, [(i,) for i in range(5)])
    assert 3 in told  # after the slow one, and before the next is claimed


def test_the_time_of_each_task_is_reported(page, worker, started):
    def task(ms):
        until = time.monotonic_ns() + ms * 1_000_000
        while time.monotonic_ns() < until:
            pass

    page.publish(0, 1, 3)
    worker.runner.run_columns(0, 1, task, [(1,), (0,), (2,)])
    batch = Batch([(i, None) for i in range(3)])
    read_results(page, [batch, None], started(3).outcomes, None)
    assert 3e-3 <= batch.seconds < 1.0


def test_a_result_is_logged_before_the_next_task_is_claimed(page, worker, started):
    """So that a worker that dies in a task loses no result."""
    outcomes = started(4).outcomes
    batches = [Batch([(i, None) for i in range(4)]), None]

    def task(i):
        read_results(page, batches, outcomes, None)
        assert outcomes.finished == i
        assert page.claimed(0) == i + 1
        return i

    page.publish(0, 1, 4)
    worker.runner.run_columns(0, 1, task, [(i,) for i in range(4)])
    read_results(page, batches, outcomes, None)
    assert outcomes.results == [0, 1, 2, 3]


def test_arguments_and_results_are_let_go_at_once(page, worker):
    class Thing:
        pass

    references = []

    def task(thing):
        assert [ref for ref in references if ref() is not None] == []
        references.append(weakref.ref(thing))
        result = Thing()
        references.append(weakref.ref(result))
        return [result]

    runner = BatchRunner(page, lambda value: b"", None, int, None)
    page.publish(0, 1, 3)
    runner.run_columns(0, 1, task, [(Thing(),) for _ in range(3)])
    page.publish(0, 2, 3)
    runner.run_tasks(0, 2, lambda position: (task, (Thing(),), {}))
    assert len(references) == 12
    assert [ref for ref in references if ref() is not None] == []


def test_a_failure_to_encode_or_send_ends_the_worker(page):
    def fail(*args):
        raise BrokenPipeError

    page.publish(0, 1, 1)
    runner = BatchRunner(page, pickle.dumps, pickle.dumps, int, fail)
    with pytest.raises(BrokenPipeError):
        runner.run_columns(0, 1, bytes, [(1 << 20,)])
    page.publish(0, 2, 1)
    runner = BatchRunner(page, pickle.dumps, pickle.dumps, fail, fail)
    with pytest.raises(BrokenPipeError):
        runner.run_columns(0, 2, abs, [(1,)])
