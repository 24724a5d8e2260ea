"""core/_task_queue, Call: stop, failure, wake-ups and the recruiting of workers."""

import threading
import time
from functools import partial

import pytest

from cypar import delayed
from cypar.core._helper_threads import Parker
from cypar.core._task_queue import END, ORDERED
from cypar.core._worker_loop import work
from cypar.core.cpu import cpu_count


def tasks_of(n):
    return [delayed(abs)(i) for i in range(n)]


@pytest.fixture
def wakes():
    """A list, and a function that appends to it."""
    seen = []
    return seen, partial(seen.append, "wake")


# ---- stop ----------------------------------------------------------------------


def test_a_new_call_is_not_stopping(make_call):
    assert make_call([]).stopping is None


@pytest.mark.parametrize(
    ("stops", "stopping"),
    [
        (["drain"], "drain"),
        (["abort"], "abort"),
        (["drain", "abort"], "abort"),
        (["abort", "drain"], "abort"),
    ],
    ids=str,
)
def test_a_stop_never_gets_weaker(make_call, stops, stopping):
    call = make_call([])
    for how in stops:
        call.stop(how)
    assert call.stopping == stopping


def test_abort_is_the_default(make_call):
    call = make_call([])
    call.stop()
    assert call.stopping == "abort"


@pytest.mark.parametrize("how", ["drain", "abort"])
def test_nothing_is_drawn_after_a_stop(make_call, how):
    call = make_call(tasks_of(10), pre_dispatch=2)
    call.source.fill()
    call.stop(how)
    call.source.fill()
    assert call.source.drawn == 2


def test_after_abort_a_draw_gives_the_end(make_call):
    call = make_call(tasks_of(10))
    call.source.fill()
    call.stop("abort")
    assert call.source.draw(1) is END


def test_results_count_while_a_call_drains(started):
    call = started(2)
    call.stop("drain")
    call.outcomes.put(0, "a")
    assert call.outcomes.completed() == {0: "a"}
    assert call.outcomes.dropped == 0


# ---- failure -------------------------------------------------------------------


def test_fail_ends_the_input_and_the_call(make_call):
    call = make_call(tasks_of(10), pre_dispatch=2)
    call.source.fill()
    error = ValueError()
    call.fail(error)
    assert call.source.ended
    assert call.stopping == "abort"
    assert call.outcomes.first_error() is error


def test_the_first_failure_is_kept(make_call):
    call = make_call([])
    first = ValueError()
    call.fail(first)
    call.fail(KeyError())
    assert call.outcomes.first_error() is first


def test_a_tasks_error_comes_before_the_failure_of_the_input(started):
    call = started(3)
    error = ValueError()
    call.fail(KeyError())
    call.outcomes.put_error(2, error)
    assert call.outcomes.first_error() is error


# ---- wake-ups ------------------------------------------------------------------


def test_a_stop_wakes(make_call, wakes):
    seen, wake = wakes
    call = make_call([])
    call.on_wake(wake)
    call.stop()
    assert seen == ["wake"]


def test_the_end_of_the_input_wakes(make_call, wakes):
    seen, wake = wakes
    call = make_call(tasks_of(1))
    call.on_wake(wake)
    call.source.draw(1)
    assert seen == []
    call.source.fill()
    assert seen


def test_the_last_outcome_wakes(started, wakes):
    seen, wake = wakes
    call = started(2)
    call.on_wake(wake)
    call.outcomes.put(1, None)
    assert seen == []
    call.outcomes.put(0, None)
    assert seen == ["wake"]


def test_tasks_given_back_wake(started, wakes):
    seen, wake = wakes
    call = started(1)
    call.on_wake(wake)
    call.source.give_back([(0, tasks_of(1)[0])])
    assert seen == ["wake"]


def test_off_wake_undoes_on_wake(make_call, wakes):
    seen, wake = wakes
    call = make_call([])
    call.on_wake(wake)
    call.off_wake(wake)
    call.off_wake(wake)  # not there any more
    call.wake()
    assert seen == []


def test_all_are_woken_even_if_one_leaves(make_call):
    call = make_call([])
    seen = []

    def leave():
        seen.append("leave")
        call.off_wake(leave)

    call.on_wake(leave)
    call.on_wake(lambda: seen.append("stay"))
    call.wake()
    call.wake()
    assert seen == ["leave", "stay", "stay"]


# ---- worker threads ------------------------------------------------------------


def test_workers_are_recruited_up_to_n_jobs(make_call):
    call = make_call(tasks_of(10), n_jobs=3)
    recruited = []
    call.recruit = lambda: recruited.append(call.joined)
    call.start_worker()
    assert recruited == [1]
    call.open_gate()
    for _ in range(5):
        call.start_worker()
    assert recruited == [1, 2, 3]
    assert call.joined == 3


def test_a_worker_finds_the_gate_open_if_the_caller_does_not_come(make_call):
    call = make_call(tasks_of(10), n_jobs=2)
    recruited = []
    call.recruit = lambda: recruited.append(call.joined)
    while len(recruited) < 2:
        call.start_worker()
    assert recruited == [1, 2]


@pytest.mark.skipif(cpu_count() < 2, reason="nobody spins on one processor")
def test_the_gate_is_shut_when_the_first_worker_comes(make_call):
    call = make_call(tasks_of(10), n_jobs=2)
    recruited = []
    call.recruit = lambda: recruited.append(call.joined)
    call.start_worker()
    begun = time.perf_counter()
    while time.perf_counter() < begun + 1e-3:  # its thread has to be started
        pass
    call.start_worker()
    assert recruited == [1]


def test_nothing_happens_where_nobody_can_be_recruited(make_call):
    call = make_call(tasks_of(1))
    call.start_worker()
    assert call.joined == 0


def test_a_caller_that_works_counts_as_one(make_call):
    call = make_call(tasks_of(10), n_jobs=2)
    recruited = []
    call.recruit = lambda: recruited.append(1)
    call.joined = 1
    call.open_gate()
    for _ in range(3):
        call.start_worker()
    assert len(recruited) == 1


def test_a_call_goes_on_with_the_workers_it_has(make_call):
    call = make_call(tasks_of(10), n_jobs=3)

    def recruit():
        if call.joined == 2:
            raise RuntimeError("can't start new thread")

    call.recruit = recruit
    call.start_worker()
    call.open_gate()
    for _ in range(3):
        call.start_worker()
    assert call.joined == 1


def test_a_call_that_gets_no_worker_fails(make_call):
    def recruit():
        raise RuntimeError("can't start new thread")

    call = make_call(tasks_of(10))
    call.recruit = recruit
    with pytest.raises(RuntimeError, match="can't start new thread"):
        call.start_worker()


@pytest.fixture
def parked_worker(make_call, until):
    """Yield a call, and a thread that works on it and has parked.

    The input is larger than the buffer of unread results, and nobody reads.
    """
    call = make_call(tasks_of(10), ORDERED, max_unread=1)
    call.recruit = lambda: None
    call.joined = call.options.n_jobs  # no other worker may join
    thread = threading.Thread(target=work, args=(call, Parker()))
    thread.start()
    until(lambda: call.outcomes.finished == 1 and not call.source.has_task())
    yield call, thread
    call.stop()
    thread.join()


@pytest.mark.parametrize("how", ["drain", "abort"])
def test_a_stop_wakes_a_parked_worker(parked_worker, how):
    call, thread = parked_worker
    call.stop(how)
    thread.join()
    assert call.outcomes.finished == 1


def test_room_wakes_a_parked_worker(parked_worker):
    call, thread = parked_worker
    assert [call.outcomes.take() for _ in range(10)] == [*range(10)]
    thread.join()
    assert call.outcomes.done


def test_a_parked_worker_is_woken_before_another_one_is_recruited(parked_worker, until):
    call, _ = parked_worker

    def woke_it():
        call.joined = 0
        call.start_worker()
        n_recruited, call.joined = call.joined, call.options.n_jobs
        return n_recruited == 0

    until(woke_it)  # at first it may be on its way into the wait still
