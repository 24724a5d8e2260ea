"""`on_error`, `retries` and what an exception knows of its task, on every backend."""

import _thread
import builtins
import os
import pickle
import threading

import pytest

import cypar
from cypar import Parallel, TaskError, delayed, parallel_config, set_config

STREAMS = ("generator", "generator_unordered")
MODES = ("list", *STREAMS)


class Demanding(Exception):
    """Its constructor needs two arguments, so that plain unpickling fails."""

    def __init__(self, code, place):
        super().__init__(f"{code} at {place}")
        self.code = code


def odd_fails(i, scale=1):
    if i % 2:
        raise Demanding(i, "here")
    return i * scale


def by_index(results, mode):
    """Return {index: result} of tasks whose result is their index."""
    if mode == "generator_unordered":
        return {getattr(r, "index", r): r for r in results}
    return dict(enumerate(results))


# ---- 'return' ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch_size", [1, 8, "auto"])
def test_return_puts_an_error_in_the_place_of_each_failed_task(
    engine, mode, batch_size
):
    parallel = engine.parallel(on_error="return", return_as=mode, batch_size=batch_size)
    out = by_index(list(parallel(delayed(odd_fails)(i) for i in range(50))), mode)
    assert sorted(out) == list(range(50))
    for i in range(0, 50, 2):
        assert out[i] == i
    for i in range(1, 50, 2):
        error = out[i]
        assert type(error) is TaskError
        assert (error.index, error.kind, error.attempts) == (i, "exception", 1)
        assert type(error.exception) is Demanding
        assert error.exception.code == i
        assert error.exception.task_index == i
        assert error.function == "odd_fails"
        assert error.arguments == f"i={i}, scale=1"
        assert "raise Demanding" in error.traceback


def test_return_draws_the_whole_input_when_all_tasks_fail(engine):
    parallel = engine.parallel(on_error="return")
    out = parallel(delayed(odd_fails)(2 * i + 1) for i in range(200))
    assert [error.exception.code for error in out] == list(range(1, 400, 2))
    assert parallel.n_completed_tasks == 200


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, StopIteration])
@pytest.mark.parametrize("mode", MODES)
def test_return_takes_exceptions_of_any_kind(engine, kind, mode):
    def task(i):
        if i == 2:
            raise kind("out")
        return i

    parallel = engine.parallel(on_error="return", return_as=mode)
    out = by_index(list(parallel(delayed(task)(i) for i in range(6))), mode)
    assert type(out[2].exception) is kind
    assert [out[i] for i in (0, 1, 3, 4, 5)] == [0, 1, 3, 4, 5]


def test_return_takes_a_keyboard_interrupt_that_a_task_raises(parallel_engine):
    def task():
        raise KeyboardInterrupt

    error, result = parallel_engine.parallel(on_error="return")(
        [delayed(task)(), delayed(abs)(-1)]
    )
    assert type(error.exception) is KeyboardInterrupt
    assert result == 1


def test_ctrl_c_ends_a_serial_loop_whatever_on_error_is():
    def task(i):
        if i == 2:
            raise KeyboardInterrupt
        return i

    with pytest.raises(KeyboardInterrupt) as caught:
        Parallel(on_error="return")(delayed(task)(i) for i in range(5))
    assert caught.value.completed == {0: 0, 1: 1}


@pytest.mark.parametrize("mode", MODES)
def test_an_error_of_the_input_is_raised_whatever_on_error_is(engine, mode):
    def tasks():
        yield delayed(odd_fails)(0)
        yield delayed(odd_fails)(1)
        raise Demanding(3, "the input")

    read = []
    with pytest.raises(Demanding, match="the input") as caught:
        read.extend(engine.parallel(on_error="return", return_as=mode)(tasks()))
    assert set(caught.value.completed) <= {0, 1}


@pytest.mark.parametrize("mode", MODES)
def test_what_cannot_be_sent_fails_alone(process_engine, mode):
    parallel = process_engine.parallel(on_error="return", return_as=mode)
    out = list(
        parallel(
            delayed(list)([threading.Lock()] if i == 3 else (i,)) for i in range(8)
        )
    )
    (error,) = [r for r in out if isinstance(r, TaskError)]
    assert (error.index, error.kind, error.attempts) == (3, "pickling", 0)
    assert isinstance(error.exception, pickle.PicklingError)
    assert error.function == "list"
    assert "lock" in error.arguments
    assert sorted(r for r in out if r is not error) == [
        [i] for i in (0, 1, 2, 4, 5, 6, 7)
    ]


def test_a_result_that_cannot_be_pickled_fails_alone(process_engine):
    first, second = process_engine.parallel(on_error="return")(
        [delayed(threading.Lock)(), delayed(abs)(-1)]
    )
    assert (first.index, first.kind) == (0, "exception")
    assert second == 1


def test_ctrl_c_while_a_task_is_pickled_is_no_error_of_the_task(process_engine):
    class Interrupted:
        def __reduce__(self):
            raise KeyboardInterrupt

    parallel = process_engine.parallel(on_error="return")
    with pytest.raises(KeyboardInterrupt):
        parallel([delayed(abs)(-1), delayed(len)([Interrupted()]), delayed(abs)(-1)])
    assert parallel([delayed(abs)(-1)]) == [1]


def test_errors_are_counted_as_finished_tasks_by_progress(engine, capfd):
    engine.parallel(on_error="return", verbose=11)(
        delayed(odd_fails)(i) for i in range(6)
    )
    captured = capfd.readouterr()
    assert "6 out of   6" in captured.err + captured.out


# ---- 'raise' -----------------------------------------------------------------------


def test_the_exception_knows_its_task(engine):
    with pytest.raises(Demanding) as caught:
        engine.parallel()(delayed(odd_fails)(i, scale=3) for i in (0, 2, 5, 4))
    error = caught.value
    assert error.task_index == 2
    assert error.task_function == "odd_fails"
    assert error.task_arguments == "i=5, scale=3"


def test_the_exception_has_the_finished_results(engine, signals):
    def task(i):
        if i == 4:
            signals.wait("after 3")
            raise Demanding(4, "here")
        if i == 5:
            signals.set("after 3")
        return i

    order = [0, 1, 2, 3, 5, 4] if not engine.is_parallel else [0, 1, 2, 3, 4, 5]
    with pytest.raises(Demanding) as caught:
        engine.parallel(batch_size=1)(delayed(task)(i) for i in order)
    completed = caught.value.completed
    assert isinstance(completed, dict)
    assert {0, 1, 2, 3} <= set(completed)
    assert all(order[index] == value for index, value in completed.items())


def meet_late(signals, i):
    """Task 2 fails when task 3 has ended, which 4, after it, knows."""
    if i == 2:
        signals.wait("3 has ended")
        raise Demanding(2, "here")
    if i == 4:
        signals.set("3 has ended")
        signals.wait("never", 2)
    return i


def read_all(generator, read):
    """Append what a generator yields to a list, before it may raise."""
    for value in generator:
        read.append(value)


def test_a_generator_first_yields_what_is_due(parallel_engine, signals):
    generator = parallel_engine.parallel(return_as="generator", batch_size=1)(
        delayed(meet_late)(signals, i) for i in range(5)
    )
    read = []
    with pytest.raises(Demanding) as caught:
        read_all(generator, read)
    assert read == [0, 1]
    assert caught.value.completed == {3: 3}
    assert list(generator) == []


def test_an_unordered_generator_first_yields_all_that_is_finished(
    parallel_engine, signals
):
    generator = parallel_engine.parallel(return_as="generator_unordered", batch_size=1)(
        delayed(meet_late)(signals, i) for i in range(5)
    )
    read = []
    with pytest.raises(Demanding) as caught:
        read_all(generator, read)
    assert sorted(read) == [0, 1, 3]
    assert caught.value.completed == {}


def test_a_serial_generator_has_nothing_left_to_tell(engine):
    generator = engine.parallel(n_jobs=1, return_as="generator")(
        delayed(odd_fails)(i) for i in (0, 2, 3)
    )
    assert [next(generator), next(generator)] == [0, 2]
    with pytest.raises(Demanding) as caught:
        next(generator)
    assert (caught.value.task_index, caught.value.completed) == (2, {})


def test_attributes_of_the_users_own_are_left_alone(engine):
    class Job(Exception):
        pass

    def task():
        error = Job("half")
        error.completed = 0.5
        raise error

    with pytest.raises(Job) as caught:
        engine.parallel()([delayed(abs)(1), delayed(task)()])
    assert caught.value.completed == 0.5
    assert caught.value.task_index == 1


def test_an_exception_that_refuses_attributes_is_raised_as_it_is(engine):
    class Frozen(Exception):
        def __setattr__(self, name, value):
            raise AttributeError(name)

    def task():
        raise Frozen("cold")

    with pytest.raises(Frozen, match="cold") as caught:
        engine.parallel()([delayed(abs)(1), delayed(task)()])
    assert caught.value.task_index == 1


def test_the_outer_call_has_the_last_word(engine):
    """A task's own loop fails: its results stay there, the index is the task's."""

    def outer(i):
        return Parallel(n_jobs=2, prefer="threads")(
            delayed(odd_fails)(x) for x in ([1] if i == 3 else [0, 2])
        )

    with pytest.raises(Demanding) as caught:
        engine.parallel(batch_size=1)(delayed(outer)(i) for i in range(5))
    error = caught.value
    assert (error.task_index, error.task_arguments) == (3, "i=3")
    assert all(value == [0, 2] for value in error.completed.values())


def test_ctrl_c_of_a_task_has_the_finished_results(parallel_engine):
    def task(i):
        if i == 30:
            raise KeyboardInterrupt
        return i

    with pytest.raises(KeyboardInterrupt) as caught:
        parallel_engine.parallel(batch_size=1)(delayed(task)(i) for i in range(40))
    completed = caught.value.completed
    assert completed
    assert all(index == value for index, value in completed.items())


def test_ctrl_c_has_the_finished_results():
    end = threading.Event()

    def task(i):
        if i == 5:
            _thread.interrupt_main()
            end.wait(10)
        return i

    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            Parallel(n_jobs=2, prefer="threads")(
                delayed(task)(i) for i in [0, 1, 2, 3, 5]
            )
    finally:
        end.set()
    assert {0, 1, 2} <= set(caught.value.completed) <= {0, 1, 2, 3}


def test_ctrl_c_of_a_reader_has_the_results_that_were_not_read():
    end = threading.Event()

    def task(i):
        if i == 3:
            _thread.interrupt_main()
        if i in (0, 3):
            end.wait(10)
        return i

    results = Parallel(n_jobs=2, prefer="threads", return_as="generator")(
        delayed(task)(i) for i in range(4)
    )
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            next(results)  # of the task that waits
    finally:
        end.set()
    assert caught.value.completed == {1: 1, 2: 2}


# ---- exceptions that survive the trip ----------------------------------------------


@pytest.mark.parametrize("on_error", ["raise", "return"])
@pytest.mark.parametrize("kind", ["group", "lock", "huge", "chain"])
def test_exceptions_survive_the_trip(engine, on_error, kind):
    if kind == "group" and not hasattr(builtins, "ExceptionGroup"):
        kind = "chain"  # before Python 3.11

    def task():
        if kind == "group":
            members = [Demanding(1, "here"), OSError(2, "gone")]
            raise builtins.ExceptionGroup("all", members)
        if kind == "lock":
            error = Demanding(5, "here")
            error.lock = threading.Lock()
            raise error
        if kind == "huge":
            raise ValueError("x" * 5_000_000)
        raise Demanding(6, "here") from OSError(2, "gone")

    parallel = engine.parallel(on_error=on_error)
    if on_error == "return":
        error = parallel([delayed(abs)(1), delayed(task)()])[1].exception
    else:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            parallel([delayed(abs)(1), delayed(task)()])
        error = caught.value
    if kind == "group":
        assert [type(e) for e in error.exceptions] == [Demanding, FileNotFoundError]
        assert error.exceptions[0].code == 1
    elif kind == "huge":
        assert str(error) == "x" * 5_000_000
    else:
        assert error.code == (5 if kind == "lock" else 6)
        assert kind == "lock" or type(error.__cause__) is FileNotFoundError
    assert error.task_index == 1


# ---- the options -------------------------------------------------------------------


def test_options_can_be_set_from_outside(engine):
    parallel = engine.parallel()
    assert (parallel.on_error, parallel.retries) == ("raise", 0)
    with parallel_config(on_error="return", retries=2):
        inner = engine.parallel()
        assert (inner.on_error, inner.retries) == ("return", 2)
        explicit = engine.parallel(on_error="raise", retries=0)
        assert (explicit.on_error, explicit.retries) == ("raise", 0)
        out = inner(delayed(odd_fails)(i) for i in range(2))
        assert isinstance(out[1], TaskError)


def test_loops_within_tasks_do_not_take_the_setting_over(engine):
    def task():
        return Parallel().on_error

    # tasks of a serial loop run in the caller, under its settings
    expected = "raise" if engine.is_parallel else "return"
    with parallel_config(on_error="return"):
        assert engine.parallel()([delayed(task)()] * 2) == [expected] * 2
    set_config(on_error="return", retries=1)
    try:
        assert Parallel().on_error == "return"
        assert engine.parallel()([delayed(task)()] * 2) == [expected] * 2
    finally:
        set_config(on_error=None, retries=None)
    assert (Parallel().on_error, Parallel().retries) == ("raise", 0)


@pytest.mark.parametrize("value", ["ignore", None, True, 1, ["raise"], "RAISE"])
def test_bad_on_error(engine, value):
    with pytest.raises(ValueError, match="on_error must be one of 'raise', 'return'"):
        engine.parallel(on_error=value)


@pytest.mark.parametrize("value", [-1, 1.5, "2", None, True, float("nan")])
def test_bad_retries(engine, value):
    with pytest.raises(ValueError, match="retries must be an integer >= 0"):
        engine.parallel(retries=value)


def test_retries_do_not_start_a_task_again_that_raises(engine, signals):
    def task():
        signals.note("run", os.getpid())
        raise Demanding(1, "here")

    with pytest.raises(Demanding):
        engine.parallel(retries=3)([delayed(abs)(1), delayed(task)()])
    assert len(signals.notes("run")) == 1


# ---- timeouts ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_late_tasks_fail_alone(parallel_engine, signals, mode):
    """As many late tasks as there are workers, and everything else is run."""

    def task(i):
        if i in (3, 4):
            signals.wait("end")
        return i

    parallel = parallel_engine.parallel(timeout=0.6, on_error="return", return_as=mode)
    try:
        out = by_index(list(parallel(delayed(task)(i) for i in range(12))), mode)
    finally:
        signals.set("end")
    assert sorted(out) == list(range(12))
    for i in range(12):
        if i in (3, 4):
            assert (out[i].index, out[i].kind) == (i, "timeout")
            assert isinstance(out[i].exception, cypar.TaskTimeout)
            assert out[i].arguments == f"i={i}"
        else:
            assert out[i] == i


def test_a_late_task_is_told_with_its_arguments(parallel_engine, signals):
    def task(i, name):
        signals.wait("end")

    try:
        with pytest.raises(cypar.TaskTimeout) as caught:
            parallel_engine.parallel(timeout=0.2)(
                [delayed(abs)(-1), delayed(task)(3, name="x")]
            )
    finally:
        signals.set("end")
    error = caught.value
    assert error.task_index == 1
    assert error.task_function.endswith("task")
    assert error.task_arguments == "i=3, name='x'"
    assert error.completed == {0: 1}
