"""Nothing that a call has used is kept alive after it, and nothing is counted wrong."""

import contextvars
import gc
import sys
import threading
import weakref
from functools import partial

import pytest

from cypar import Parallel, delayed
from cypar.core import _helper_threads
from cypar.core._helper_threads import Parker
from cypar.core._task_queue import LIST, ORDERED, UNORDERED
from cypar.core._worker_loop import run_serial, work


class Thing:
    """Something with weak references."""


def make_thing(*args, **kwargs):
    return Thing()


@pytest.fixture
def no_gc():
    """Reference cycles must not be needed to find what is still alive."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def helpers_parked(until):
    """Return a function that waits until no helper thread has a job."""
    return partial(
        until,
        lambda: _helper_threads.live_count() == _helper_threads.parked_count(),
    )


def alive(references):
    return [ref for ref in references if ref() is not None]


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_arguments_and_results_die_with_the_callers_names(
    n_jobs, return_as, helpers_parked
):
    arguments = [Thing() for _ in range(5)]
    references = [weakref.ref(x) for x in arguments]
    parallel = Parallel(n_jobs=n_jobs, backend="threading", return_as=return_as)
    results = list(parallel(delayed(make_thing)(x, key=x) for x in arguments))
    references += [weakref.ref(result) for result in results]
    assert len(alive(references)) == 10
    del arguments, results
    helpers_parked()
    assert alive(references) == []


@pytest.mark.usefixtures("no_gc")
def test_a_read_result_is_not_kept_by_a_running_generator(helpers_parked):
    results = Parallel(n_jobs=2, backend="threading", return_as="generator")(
        delayed(make_thing)() for _ in range(20)
    )
    references = [weakref.ref(next(results)) for _ in range(10)]
    assert alive(references) == []
    results.close()
    helpers_parked()


@pytest.mark.usefixtures("no_gc")
def test_the_error_of_a_task_dies_with_the_callers_name(helpers_parked):
    argument = Thing()
    reference = weakref.ref(argument)

    def fail(x):
        raise ValueError(x)

    def catch(tasks):
        try:
            Parallel(n_jobs=2, backend="threading")(tasks)
        except ValueError as error:
            return error

    error = catch([delayed(fail)(argument)])
    assert error.args == (argument,)
    del argument, error
    helpers_parked()
    gc.collect()  # Python's own cycle: an error, its traceback and their frames
    assert alive([reference]) == []


def test_a_waiting_worker_keeps_no_arguments_alive(make_call, until):
    arguments = [Thing() for _ in range(9)]
    reference = weakref.ref(arguments[-1])

    def tasks():
        while arguments:
            yield delayed(make_thing)(arguments.pop())

    call = make_call(tasks(), ORDERED, n_jobs=1, max_unread=1)
    thread = threading.Thread(target=work, args=(call, Parker()))
    thread.start()
    until(lambda: call.outcomes.finished == 1)
    until(lambda: reference() is None)
    call.stop()
    thread.join()


@pytest.mark.parametrize("mode", [LIST, ORDERED, UNORDERED])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_reference_counts_are_the_same_after_many_calls(make_call, mode, batch_size):
    def function(x, key=None):
        return x

    argument, keyword = Thing(), Thing()
    task = delayed(function)(argument, key=keyword)
    watched = [function, argument, keyword, task, task[1], task[2], None, int]

    def one_call():
        options = {"n_jobs": 1, "batch_size": batch_size, "max_unread": 99}
        call = make_call([task] * 10, mode, **options)
        call.source.fill()
        call.source.give_back(call.source.draw(3))
        for index, _ in call.source.draw(2):
            call.outcomes.put(index, argument)
            call.outcomes.put(index, argument)  # dropped
        work(call, Parker())
        call.outcomes.put_error(9, ValueError())

    check_counts(watched, one_call)


@pytest.mark.parametrize("hook", [None, int])
def test_reference_counts_are_the_same_after_many_serial_loops(hook):
    def function(x):
        return x

    argument = Thing()
    task = delayed(function)(argument)
    watched = [function, argument, task, task[1], task[2], hook]
    check_counts(watched, lambda: run_serial([task, list(task)], [], hook))


def check_counts(watched, run):
    """Run something 1,000 times; no count may grow by more than a fraction of that."""

    def counts():
        gc.collect()
        return [sys.getrefcount(obj) for obj in watched]

    run()
    before = counts()
    for _ in range(1000):
        run()
    growth = [after - b for after, b in zip(counts(), before, strict=True)]
    assert max(map(abs, growth)) < 100, growth


def test_no_context_is_left_entered(make_call):
    context = contextvars.copy_context()
    call = make_call([delayed(abs)(1)] * 3, n_jobs=1)
    call.task_context = context
    work(call, Parker())
    assert context.run(lambda: "free") == "free"


@pytest.mark.usefixtures("no_gc")
@pytest.mark.parametrize("options", [{}, {"batch_size": 3}, {"timeout": 30}])
@pytest.mark.parametrize("return_as", ["list", "generator_unordered"])
def test_positional_arguments_die_with_the_callers_names(
    return_as, options, helpers_parked
):
    """Tasks without keywords wait in parts."""
    arguments = [Thing() for _ in range(50)]
    references = [weakref.ref(x) for x in arguments]
    parallel = Parallel(2, backend="threading", return_as=return_as, **options)
    n = len(list(parallel(delayed(make_thing)(x) for x in arguments)))
    helpers_parked()
    del arguments
    assert n == 50
    assert alive(references) == []


def fail(x):
    raise ValueError


@pytest.mark.parametrize("function", [fail, abs])
@pytest.mark.parametrize("options", [{}, {"batch_size": 3}, {"timeout": 30}])
def test_counts_of_what_threads_take_apart(function, options):
    argument = 10.5 if function is abs else Thing()
    task = delayed(function)(argument)

    def run():
        parallel = Parallel(2, backend="threading", **options)
        try:
            parallel((function, (argument,), {}) for _ in range(7))
            parallel([task] * 7)
        except ValueError:
            pass

    check_counts([function, argument, task, task[1], task[2]], run)


def test_arguments_that_a_function_keeps_are_seen_by_the_collector():
    """An exception's `args` is the very tuple; a cycle through it must be found."""
    things = [Thing() for _ in range(4)]
    references = [weakref.ref(x) for x in things]
    errors = Parallel(2, backend="threading")(delayed(ValueError)(x) for x in things)
    for thing, error in zip(things, errors, strict=True):
        thing.error = error
    assert all(gc.is_tracked(error.args) for error in errors)
    del things, thing, errors, error
    gc.collect()
    assert alive(references) == []


def test_the_users_own_tasks_stay_visible_to_the_collector():
    tasks = [delayed(make_thing)([]) for _ in range(4)]
    Parallel(2, backend="threading")(tasks)
    assert all(gc.is_tracked(task) and gc.is_tracked(task[1]) for task in tasks)


def tuples_around(x):
    return [type(found) for found in gc.get_referrers(x) if type(found) is tuple]


def test_waiting_arguments_are_out_of_the_collectors_sight():
    found = Parallel(2, backend="threading")(
        delayed(tuples_around)(Thing()) for _ in range(20)
    )
    assert found == [[]] * 20


def test_the_empty_tuple_stays_untracked():
    Parallel(2, backend="threading")(delayed(list)() for _ in range(20))
    assert not gc.is_tracked(())
