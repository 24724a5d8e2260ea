"""Errors: S65, S66, S69, P8, P51, on every backend."""

import contextlib
import os
import pickle
import threading
from heapq import nlargest

import pytest

import cypar
from cypar import delayed


class Demanding(Exception):
    """Its constructor needs two arguments, so that plain unpickling fails."""

    def __init__(self, code, place):
        super().__init__(f"{code} at {place}")
        self.code = code
        self.place = place


def fail(i):
    raise Demanding(i, "here")


def chain(tasks_error):
    """Return all exceptions that a traceback would show."""
    found, error = [], tasks_error
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def text_of(error):
    return "\n".join(str(part) for part in chain(error))


def test_s65_own_type(engine):
    with pytest.raises(ZeroDivisionError):
        engine.parallel()(delayed(divmod)(1, i) for i in (1, 2, 0, 3))


def test_s65_required_constructor_arguments(engine):
    with pytest.raises(Demanding, match="7 at here") as caught:
        engine.parallel()([delayed(abs)(1), delayed(fail)(7)])
    assert (caught.value.code, caught.value.place) == (7, "here")


def test_s65_values_of_parameters_and_where(parallel_engine):
    with pytest.raises(TypeError, match="not iterable") as caught:
        parallel_engine.parallel()(
            delayed(nlargest)(2, n) for n in (range(4), "abcde", 3)
        )
    text = text_of(caught.value)
    for part in ("heapq.py", "nlargest(n=2, iterable=3, key=None)", "PID", "Python"):
        assert part in text
    assert "it = iter(iterable)" in text


def test_s65_cause_context_and_notes_survive(engine):
    def task():
        try:
            try:
                raise KeyError("deep")
            except KeyError as error:
                raise LookupError("middle") from error
        except LookupError:
            problem = ValueError("top")
            if hasattr(problem, "add_note"):
                problem.add_note("a note")
            raise problem  # noqa: B904

    with pytest.raises(ValueError, match="top") as caught:
        engine.parallel()([delayed(task)(), delayed(abs)(1)])
    error = caught.value
    assert type(error.__context__) is LookupError
    assert type(error.__context__.__cause__) is KeyError
    if hasattr(error, "add_note"):
        assert error.__notes__ == ["a note"]


def test_s65_long_values_and_failing_reprs(parallel_engine):
    class Mute:
        def __repr__(self):
            raise RuntimeError("no repr")

    def task(long, mute):
        raise ValueError("seen")

    with pytest.raises(ValueError, match="seen") as caught:
        parallel_engine.parallel()(delayed(task)("y" * 5_000, Mute()) for _ in range(2))
    assert "y" * 80 in text_of(caught.value)
    assert "y" * 300 not in text_of(caught.value)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_s65_exits_do_not_pass_for_results(parallel_engine, kind):
    def task():
        raise kind("out")

    with pytest.raises((kind, cypar.CyparError)):
        parallel_engine.parallel()([delayed(task)(), delayed(abs)(1)])
    assert parallel_engine.parallel()([delayed(abs)(-1)]) == [1]


def test_s65_stop_iteration_is_an_error_like_others(engine):
    with pytest.raises(StopIteration):
        engine.parallel()([delayed(next)(iter(())), delayed(abs)(1)])


def test_s40_first_failure_of_a_batch(engine):
    """Within one batch tasks run one after the other: the first failure is known."""
    for _ in range(5):
        with pytest.raises(Demanding) as caught:
            engine.parallel(batch_size=8)(
                delayed(fail if i >= 3 else abs)(i) for i in range(8)
            )
        assert caught.value.code == 3


def test_s40_lowest_index_of_the_failures_known(parallel_engine, signals):
    """Task 1 fails while task 0 runs, and nothing after that counts."""

    def slow():
        # some backends wait for tasks that run: then it has to end, long after quick
        with contextlib.suppress(AssertionError):
            signals.wait("end", 1.0)

    def quick():
        raise Demanding(1, "here")

    def tasks():
        yield delayed(slow)()
        yield delayed(quick)()
        for i in range(2, 50):
            yield delayed(fail)(i)

    try:
        with pytest.raises(Demanding) as caught:
            parallel_engine.parallel(pre_dispatch=2, batch_size=1)(tasks())
    finally:
        signals.set("end")
    assert caught.value.code == 1


def test_p08_an_error_stops_the_call(parallel_engine, signals):
    """Not all of a long input is drawn, and the next call works."""
    drawn = []

    def tasks():
        for i in range(100_000):
            drawn.append(i)
            yield delayed(fail if i == 5 else abs)(i)

    parallel = parallel_engine.parallel(batch_size=1)
    with pytest.raises(Demanding):
        parallel(tasks())
    assert len(drawn) < 5_000
    assert parallel(delayed(abs)(-i) for i in range(10)) == list(range(10))


def test_p51_error_of_the_input(engine):
    def tasks():
        yield delayed(abs)(1)
        yield delayed(abs)(2)
        raise Demanding(3, "the input")

    parallel = engine.parallel()
    with pytest.raises(Demanding, match="the input") as caught:
        parallel(tasks())
    assert type(caught.value) is Demanding
    assert parallel([delayed(abs)(-1)]) == [1]


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_p51_error_of_the_input_of_a_generator(engine, return_as):
    def tasks():
        yield delayed(abs)(1)
        raise Demanding(3, "the input")

    with pytest.raises(Demanding, match="the input"):
        list(engine.parallel(return_as=return_as)(tasks()))


# ---- pickling --------------------------------------------------------------------


def test_s66_argument_is_named(process_engine):
    bad = {"locks": [1, threading.Lock()]}
    tasks = [delayed(abs)(1), delayed(abs)(2), delayed(len)(bad)]
    with pytest.raises(pickle.PicklingError) as caught:
        process_engine.parallel()(tasks)
    assert "task 2" in str(caught.value)
    assert "['locks'][1]" in str(caught.value)


def test_s66_keyword_argument_is_named(process_engine):
    with pytest.raises(pickle.PicklingError, match=r"base.*lock"):
        process_engine.parallel()([delayed(int)("1", base=threading.Lock())] * 2)


def test_s66_closure_of_the_function_is_named(process_engine):
    lock = threading.Lock()

    def task():
        return lock

    with pytest.raises(pickle.PicklingError, match="lock"):
        process_engine.parallel()([delayed(task)(), delayed(task)()])


def test_s66_raised_when_drawn(process_engine):
    """The input is not read on, and what came before does not hang."""
    drawn = []

    def tasks():
        for i in range(1000):
            drawn.append(i)
            yield delayed(len)([threading.Lock()] if i == 20 else [])

    parallel = process_engine.parallel()
    with pytest.raises(pickle.PicklingError, match="task 20"):
        parallel(tasks())
    assert len(drawn) <= 25
    assert parallel([delayed(abs)(-1)]) == [1]


def test_s66_result_that_cannot_be_pickled(process_engine):
    parallel = process_engine.parallel()
    with pytest.raises(Exception, match="lock"):
        parallel([delayed(threading.Lock)(), delayed(abs)(1)])
    assert parallel([delayed(abs)(-1)]) == [1]


def test_s66_exception_that_cannot_be_pickled(process_engine):
    def task():
        error = ValueError("with a lock")
        error.lock = threading.Lock()
        raise error

    with pytest.raises((ValueError, cypar.RemoteError), match="with a lock"):
        process_engine.parallel()([delayed(task)(), delayed(abs)(1)])


class Exits:
    """Raises SystemExit or KeyboardInterrupt out of whatever looks at it."""

    def __init__(self, exit_type=SystemExit):
        self.exit_type = exit_type

    def __repr__(self):
        raise self.exit_type("repr")

    def __reduce__(self):
        raise self.exit_type("reduce")


class NoAttributes(Exception):
    @property
    def __dict__(self):
        raise RuntimeError("no attributes")


class ExitsWhenAsked(Exception):
    def __getattribute__(self, name):
        raise SystemExit(name)


def odd_error(kind, i):
    if i != 2:
        return i
    if kind == "argument":
        raise ValueError(Exits())
    if kind == "interrupted":
        raise ValueError(Exits(KeyboardInterrupt))
    raise {"attributes": NoAttributes, "asked": ExitsWhenAsked}[kind]("odd")


@pytest.mark.parametrize("kind", ["argument", "interrupted", "attributes", "asked"])
def test_error_that_cannot_be_described_is_its_tasks_alone(process_engine, kind):
    out = process_engine.parallel(on_error="return", batch_size=10)(
        delayed(odd_error)(kind, i) for i in range(10)
    )
    assert (out[2].kind, out[2].index) == ("exception", 2)
    assert [r for i, r in enumerate(out) if i != 2] == [0, 1, *range(3, 10)]


def test_s66_argument_that_fails_to_load(process_engine):
    class Explosive:
        def __reduce__(self):
            return os.strerror, ()  # takes one argument: fails in the worker

    parallel = process_engine.parallel()
    with pytest.raises(TypeError):
        parallel([delayed(id)(Explosive()), delayed(abs)(1)])
    assert parallel([delayed(abs)(-1)]) == [1]
