"""core/_task_queue, Outcomes: order, errors and the end of a call."""

import sys
import threading
from _thread import interrupt_main

import pytest

from cypar import delayed
from cypar.core._task_queue import END, LATER, LIST, ORDERED, UNORDERED

MODES = pytest.mark.parametrize(
    "mode", [LIST, ORDERED, UNORDERED], ids=["list", "ordered", "unordered"]
)
GENERATORS = pytest.mark.parametrize(
    "mode", [ORDERED, UNORDERED], ids=["ordered", "unordered"]
)


def take_all(outcomes):
    results = []
    while True:
        try:
            results.append(outcomes.take())
        except StopIteration:
            return results


# ---- order ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(LIST, ["a", "b", "c"]), (ORDERED, ["a", "b", "c"]), (UNORDERED, ["c", "a", "b"])],
    ids=["list", "ordered", "unordered"],
)
def test_order_of_the_results(started, mode, expected):
    outcomes = started(3, mode).outcomes
    for index, value in ((2, "c"), (0, "a"), (1, "b")):
        outcomes.put(index, value)
    results = outcomes.results if mode == LIST else take_all(outcomes)
    assert results == expected
    assert outcomes.finished == 3


def test_take_waits_for_the_next_in_order(started):
    outcomes = started(2, ORDERED).outcomes
    outcomes.put(1, "b")
    thread = threading.Thread(target=outcomes.put, args=(0, "a"))
    thread.start()
    assert [outcomes.take(), outcomes.take()] == ["a", "b"]
    thread.join()


def test_completed_has_the_finished_results_by_index(started):
    outcomes = started(4).outcomes
    outcomes.put(3, None)
    outcomes.put(1, "b")
    assert outcomes.completed() == {1: "b", 3: None}


@GENERATORS
def test_completed_has_the_unread_results_by_index(started, mode):
    outcomes = started(4, mode).outcomes
    for index in (0, 3, 1):
        outcomes.put(index, f"value {index}")
    assert outcomes.take() == "value 0"
    assert outcomes.completed() == {1: "value 1", 3: "value 3"}


# ---- one outcome per task ------------------------------------------------------


@MODES
def test_a_second_result_is_dropped_and_counted(started, mode):
    outcomes = started(2, mode).outcomes
    outcomes.put(0, "first")
    outcomes.put(0, "second")
    assert (outcomes.finished, outcomes.dropped) == (1, 1)
    assert not outcomes.done
    outcomes.put(1, "other")
    results = outcomes.results if mode == LIST else take_all(outcomes)
    assert results == ["first", "other"]


@GENERATORS
def test_a_second_result_is_dropped_after_the_first_was_read(started, mode):
    outcomes = started(2, mode).outcomes
    outcomes.put(0, "first")
    assert outcomes.take() == "first"
    outcomes.put(0, "second")
    assert (outcomes.finished, outcomes.dropped, outcomes.unread_bytes) == (1, 1, 0)


@MODES
def test_an_error_after_a_result_is_dropped(started, mode):
    call = started(2, mode)
    call.outcomes.put(0, "first")
    call.outcomes.put_error(0, ValueError())
    assert call.outcomes.errors == {}
    assert (call.outcomes.dropped, call.stopping) == (1, None)


@MODES
def test_a_result_after_an_error_is_dropped(started, mode):
    outcomes = started(2, mode).outcomes
    error = ValueError()
    outcomes.put_error(0, error)
    outcomes.put(0, "late")
    outcomes.put_error(0, KeyError())
    assert outcomes.errors == {0: error}
    assert (outcomes.finished, outcomes.dropped) == (1, 2)


@MODES
def test_a_result_after_the_end_of_the_call_is_dropped(started, mode):
    call = started(2, mode)
    call.stop()
    call.outcomes.put(0, "finished while the backend stops")
    call.finish()
    call.outcomes.put(1, "late")
    assert (call.outcomes.finished, call.outcomes.dropped) == (1, 1)


# ---- errors --------------------------------------------------------------------


@MODES
def test_the_error_of_the_lowest_index_is_first(started, mode):
    call = started(5, mode)
    errors = {i: ValueError(i) for i in (3, 1, 4)}
    for index, error in errors.items():
        call.outcomes.put_error(index, error)
    assert call.outcomes.first_error() is errors[1]
    assert call.outcomes.errors == errors
    assert call.stopping == "abort"


def test_there_may_be_no_error(started):
    outcomes = started(1).outcomes
    assert outcomes.first_error() is None
    assert outcomes.take_error() is None


def test_a_taken_error_is_forgotten(started):
    outcomes = started(2).outcomes
    error = ValueError()
    outcomes.put_error(1, KeyError())
    outcomes.put_error(0, error)
    assert outcomes.take_error() is error
    assert outcomes.errors == {}
    assert outcomes.first_error() is None


@GENERATORS
def test_what_was_finished_before_an_error_is_given_first(started, mode):
    call = started(4, mode)
    outcomes = call.outcomes
    outcomes.put(0, "a")
    outcomes.put_error(3, ValueError())
    outcomes.put(1, "b")
    call.finish()
    assert take_all(outcomes) == ["a", "b"]


# ---- the end -------------------------------------------------------------------


@MODES
def test_done_means_input_ended_and_every_outcome_there(make_call, mode):
    call = make_call([delayed(abs)(i) for i in range(3)], mode)
    call.source.draw(2)
    call.outcomes.put(0, None)
    call.outcomes.put(1, None)
    assert not call.outcomes.done  # all drawn tasks are, but the input has not ended
    call.source.draw(2)
    assert call.source.ended
    assert not call.outcomes.done
    call.outcomes.put(2, None)
    assert call.outcomes.done


@MODES
def test_an_empty_call_is_done_once_it_is_filled(make_call, mode):
    call = make_call([], mode)
    call.source.fill()
    assert call.outcomes.done
    assert call.outcomes.wait()
    assert take_all(call.outcomes) == []


def test_wait_gives_up_after_its_timeout(started):
    call = started(1)
    assert call.outcomes.wait(0) is False
    assert call.outcomes.wait(0.001) is False
    call.outcomes.put(0, None)
    assert call.outcomes.wait(0) is True


@pytest.mark.parametrize("end", ["put", "put_error", "stop", "drain"])
def test_wait_ends_with_the_call(started, end):
    call = started(1)
    ends = {
        "put": lambda: call.outcomes.put(0, None),
        "put_error": lambda: call.outcomes.put_error(0, ValueError()),
        "stop": call.stop,
        "drain": lambda: call.stop("drain"),
    }
    thread = threading.Thread(target=ends[end])
    thread.start()
    assert call.outcomes.wait() is True
    thread.join()


@GENERATORS
def test_take_ends_when_another_thread_ends_the_call(started, mode):
    call = started(1, mode)
    call.stop()
    thread = threading.Thread(target=call.finish)
    thread.start()
    with pytest.raises(StopIteration):
        call.outcomes.take()
    thread.join()


@pytest.mark.parametrize("wait", ["wait", "take"])
def test_ctrl_c_ends_a_wait(started, wait):
    outcomes = started(1, ORDERED).outcomes
    waiting = threading.Event()
    thread = threading.Thread(target=lambda: waiting.wait() and interrupt_main())
    thread.start()

    def be_interrupted():
        waiting.set()
        getattr(outcomes, wait)()

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    thread.join()


# ---- the hook ------------------------------------------------------------------


@MODES
def test_the_hook_sees_the_outcome_it_is_called_for(started, mode):
    outcomes = started(3, mode).outcomes
    seen = []
    outcomes.hook = lambda: seen.append(outcomes.finished)
    for index in (0, 0, 2):  # the second is dropped
        outcomes.put(index, None)
    assert seen == [1, 2]


def test_an_error_of_the_hook_ends_the_call(started):
    call = started(3)
    error = ZeroDivisionError()

    def hook():
        raise error

    call.outcomes.hook = hook
    call.outcomes.put(0, None)
    assert call.outcomes.first_error() is error
    assert call.stopping == "abort"


def test_done_and_produced_alternate_whatever_threads_do(make_call):
    window, n_tasks = 3, 300
    log = []

    def produces():
        for i in range(n_tasks):
            log.append(f"produced {i}")
            yield delayed(abs)(i)

    call = make_call(produces(), pre_dispatch=window)
    call.outcomes.hook = lambda: log.append(f"done {call.outcomes.finished}")
    call.source.fill()

    def worker():
        while (tasks := call.source.draw(1)) is not END:
            for index, _ in () if tasks is LATER else tasks:
                call.outcomes.put(index, index)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=worker) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)

    expected = [f"produced {i}" for i in range(window)]
    for i in range(n_tasks):
        expected.append(f"done {i + 1}")
        if i + window < n_tasks:
            expected.append(f"produced {i + window}")
    assert call.outcomes.wait()
    assert log == expected
