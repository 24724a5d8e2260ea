"""core/_worker_loop: the loop that runs tasks on threads."""

import contextvars
import sys
import threading
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cypar import delayed
from cypar.core import _helper_threads
from cypar.core._helper_threads import Parker
from cypar.core._task_queue import LIST, ORDERED, UNORDERED
from cypar.core._worker_loop import is_worker_thread, run_serial, work

var = contextvars.ContextVar("var", default="unset")


def start(call):
    """Let helper threads work on a call, as the thread backend does."""
    call.recruit = partial(_helper_threads.run, partial(work, call))
    call.source.fill()
    call.start_worker()


def results_of(call):
    start(call)
    if call.outcomes.mode != LIST:
        return [*iter(partial(next_result, call), StopIteration)]
    call.outcomes.wait()
    return call.outcomes.results


def next_result(call):
    try:
        return call.outcomes.take()
    except StopIteration:
        return StopIteration


# ---- results -------------------------------------------------------------------


@given(
    values=st.lists(st.integers(), max_size=40),
    mode=st.sampled_from([LIST, ORDERED, UNORDERED]),
    n_jobs=st.integers(1, 4),
    batch_size=st.integers(0, 5),
    pre_dispatch=st.integers(0, 4),
    max_unread=st.integers(1, 10),
)
def test_results_are_those_of_a_list_comprehension(make_call, values, mode, **options):
    call = make_call((delayed(pow)(x, 2) for x in values), mode, **options)
    results = results_of(call)
    expected = [x**2 for x in values]
    if mode == UNORDERED:
        results, expected = sorted(results), sorted(expected)
    assert results == expected
    assert call.outcomes.first_error() is None


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (delayed(dict)(), {}),
        (delayed(dict)(a=1), {"a": 1}),
        (delayed(dict)([("b", 2)], a=1), {"a": 1, "b": 2}),
        (delayed(max)(1, 2, 3), 3),
    ],
    ids=["nothing", "keywords", "both", "positional"],
)
def test_arguments_arrive(make_call, task, expected):
    assert results_of(make_call([task] * 3)) == [expected] * 3
    assert run_serial([task] * 3, [], None) == [expected] * 3


def test_done_and_produced_alternate(make_call):
    log = []

    def produces():
        for i in range(50):
            log.append(f"produced {i}")
            yield delayed(abs)(i)

    call = make_call(produces(), pre_dispatch=1)
    call.outcomes.hook = lambda: log.append(f"done {call.outcomes.finished}")
    results_of(call)
    steps = [(f"produced {i}", f"done {i + 1}") for i in range(50)]
    assert log == [line for step in steps for line in step]


# ---- threads -------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [2, 5])
def test_n_jobs_tasks_run_at_once(make_call, n_jobs):
    barrier = threading.Barrier(n_jobs)
    call = make_call(
        [delayed(barrier.wait)() for _ in range(2 * n_jobs)], n_jobs=n_jobs
    )
    assert sorted(results_of(call)) == sorted([*range(n_jobs)] * 2)


def test_no_more_than_n_jobs_tasks_run_at_once(make_call):
    call = make_call((delayed(threading.get_ident)() for _ in range(500)), n_jobs=2)
    threads = set(results_of(call))
    assert len(threads) <= 2
    assert threading.get_ident() not in threads
    assert call.joined <= 2


def test_one_task_takes_one_worker(make_call, until):
    call = make_call([delayed(abs)(-1)], n_jobs=8)
    call.open_gate()
    start(call)
    until(lambda: call.outcomes.done)
    assert call.joined == 1


def test_a_batch_runs_on_one_thread_in_order(make_call):
    order = []

    def note(i):
        order.append((i, threading.get_ident()))

    results_of(make_call([delayed(note)(i) for i in range(40)], batch_size=4))
    assert sorted(i for i, _ in order) == [*range(40)]
    for thread in {thread for _, thread in order}:
        mine = [i for i, owner in order if owner == thread]
        assert mine == sorted(mine)
        assert {i // 4 for i in mine if i % 4 == 0} == {i // 4 for i in mine}


@pytest.fixture
def _no_switching():
    """Let a thread keep the GIL until it waits for something."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100.0)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_no_switching")
def test_a_worker_that_found_the_input_busy_gets_the_task_after_it(make_call):
    may_end, ended = threading.Event(), threading.Event()
    barrier = threading.Barrier(2)

    def end():
        barrier.wait()
        may_end.wait()
        ended.set()

    def produces():
        yield delayed(barrier.wait)()
        yield delayed(end)()
        may_end.set()
        ended.wait()  # now the other worker has no task, and cannot draw one
        yield delayed(barrier.wait)(2.0)
        yield delayed(barrier.wait)(2.0)

    call = make_call(produces(), pre_dispatch=2)
    results_of(call)
    assert call.outcomes.first_error() is None


def test_an_error_of_the_input_ends_the_call(make_call):
    def failing():
        yield from [delayed(abs)(i) for i in range(5)]
        raise OSError("no more input")

    call = make_call(failing(), pre_dispatch=1)
    results_of(call)
    assert isinstance(call.outcomes.first_error(), OSError)


def test_an_error_of_the_loop_itself_ends_the_call(make_call):
    call = make_call([delayed(abs)(1)])
    call.source.capture = lambda index, task: task
    call.options.batch_size = "no number"
    results_of(call)
    assert isinstance(call.outcomes.first_error(), TypeError)


# ---- errors of tasks -----------------------------------------------------------


def fail(kind):
    raise kind("of the task")


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_whatever_a_task_raises_is_its_error(make_call, kind, batch_size):
    tasks = [delayed(abs)(1), delayed(fail)(kind), delayed(abs)(1)]
    call = make_call(tasks, batch_size=batch_size)
    results_of(call)
    (error,) = call.outcomes.errors.values()
    assert type(error) is kind
    assert list(call.outcomes.errors) == [1]


def test_explain_is_asked_about_an_error(make_call):
    task = delayed(fail)(ValueError)
    call = make_call([task])
    asked = []

    def explain(exc, failed):
        asked.append((type(exc), failed))
        return LookupError("explained")

    call.explain = explain
    results_of(call)
    assert asked == [(ValueError, task)]
    assert isinstance(call.outcomes.first_error(), LookupError)


@pytest.mark.parametrize("batch_size", [1, 2, 10])
def test_no_task_starts_after_an_error(make_call, batch_size):
    ran = []
    tasks = [delayed(fail)(ValueError), *(delayed(ran.append)(i) for i in range(9))]
    call = make_call(tasks, n_jobs=1, batch_size=batch_size)
    results_of(call)
    assert ran == []


def test_a_draining_call_starts_nothing_more(make_call):
    ran = []
    tasks = [delayed(lambda: call.stop("drain"))(), delayed(ran.append)(1)]
    call = make_call(tasks, n_jobs=1)
    call.source.fill()
    work(call, Parker())
    assert ran == []
    assert call.outcomes.completed() == {0: None}


# ---- nested calls and contexts -------------------------------------------------


def test_only_tasks_run_in_a_worker_thread(make_call):
    seen = []

    def note():
        seen.append(is_worker_thread())

    assert not is_worker_thread()
    results_of(make_call([delayed(note)()]))
    assert seen == [True]
    assert not is_worker_thread()


def test_a_nested_call_runs_on_its_workers_thread(make_call):
    def inner():
        call = make_call([delayed(threading.get_ident)() for _ in range(3)], n_jobs=1)
        work(call, Parker())
        return [*call.outcomes.results, is_worker_thread(), threading.get_ident()]

    ((*threads, still_worker, mine),) = results_of(make_call([delayed(inner)()]))
    assert threads == [mine] * 3
    assert still_worker is True


def test_an_inner_loop_leaves_its_caller_no_worker(make_call):
    call = make_call([delayed(is_worker_thread)()], n_jobs=1)
    work(call, Parker())
    assert call.outcomes.results == [True]
    assert not is_worker_thread()


def test_tasks_see_the_context_of_the_call_and_cannot_change_it(make_call):
    call_context = contextvars.copy_context()
    call_context.run(var.set, "of the call")
    call = make_call([delayed(lambda: (var.get(), var.set("task"))[0])()], n_jobs=1)
    call.task_context = call_context
    work(call, Parker())
    assert call.outcomes.results == ["of the call"]
    assert call_context[var] == "of the call"
    assert var.get() == "unset"


def test_each_worker_has_a_context_of_its_own(make_call):
    barrier = threading.Barrier(2)

    def swap(i):
        var.set(i)
        barrier.wait()  # both have set it
        seen = var.get()
        barrier.wait()
        return seen

    assert results_of(make_call([delayed(swap)(i) for i in range(2)])) == [0, 1]


# ---- the time of tasks ---------------------------------------------------------


@pytest.fixture
def running_task(make_call):
    """Yield a call with a time limit whose second task runs until it is released."""
    entered, release = threading.Event(), threading.Event()

    def block():
        entered.set()
        release.wait()

    call = make_call([delayed(abs)(1), delayed(block)()], n_jobs=1, timeout_s=1000.0)
    thread = threading.Thread(target=work, args=(call, Parker()))
    thread.start()
    entered.wait()

    def finish():
        release.set()
        thread.join()

    yield call, finish
    finish()


def test_a_running_task_is_overdue_after_its_time(running_task):
    call, finish = running_task
    assert call.overdue(1000.0) is None
    assert call.overdue(0.0) == 1
    assert 999.0 < call.time_left(1000.0) < 1000.0
    finish()
    assert call.overdue(0.0) is None
    assert call.time_left(1000.0) == 1000.0


def test_the_result_of_a_task_that_was_given_up_is_dropped(running_task):
    call, finish = running_task
    error = TimeoutError()
    call.outcomes.put_error(1, error)
    finish()
    assert call.outcomes.first_error() is error
    assert call.outcomes.dropped == 1


def test_no_time_is_taken_without_a_limit(make_call):
    overdue = []
    call = make_call([delayed(lambda: overdue.append(call.overdue(0.0)))()], n_jobs=1)
    work(call, Parker())
    assert overdue == [None]


# ---- run_serial ----------------------------------------------------------------


@given(st.lists(st.integers()))
def test_the_serial_loop_is_a_list_comprehension(values):
    calls = (delayed(abs)(x) for x in values)
    assert run_serial(calls, [], None) == [*map(abs, values)]


def test_the_serial_loop_calls_the_hook_after_each_task():
    log = []
    tasks = (delayed(log.append)(f"task {i}") for i in range(2))
    run_serial(tasks, [], lambda: log.append("hook"))
    assert log == ["task 0", "hook", "task 1", "hook"]


def test_the_serial_loop_shows_its_results_as_they_come():
    results = ["before"]
    seen = []
    tasks = (delayed(lambda i: (seen.append(len(results)), i)[1])(i) for i in range(3))
    assert run_serial(tasks, results, None) is results
    assert results == ["before", 0, 1, 2]
    assert seen == [1, 2, 3]


def test_the_serial_loop_takes_other_sequences_as_tasks():
    assert run_serial([[abs, [-1], ()]], [], None) == [1]


@pytest.mark.parametrize(
    ("tasks", "kind"),
    [
        ([delayed(fail)(OSError)], OSError),
        ([5], TypeError),
        (map(fail, [LookupError]), LookupError),
    ],
    ids=["task", "no task", "input"],
)
def test_the_serial_loop_raises_at_once(tasks, kind):
    with pytest.raises(kind):
        run_serial(iter(tasks), [], None)
