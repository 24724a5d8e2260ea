"""What happens when the body of a native loop fails or is interrupted."""

import gc
import signal
import sys
import threading
import time
import traceback

import pytest


class Oops(Exception):
    pass


def fail_at(*positions):
    def check(begin, end):
        for i in range(begin, end):
            if i in positions:
                raise Oops(i)

    return check


@pytest.mark.parametrize("gil", [True, False])
@pytest.mark.parametrize("n_jobs", [1, 2, 4])
@pytest.mark.parametrize("at", [0, 7, 99])
def test_an_exception_reaches_the_caller(bodies, at, n_jobs, gil):
    with pytest.raises(Oops) as info:
        bodies.call_python(fail_at(at), 100, 1, n_jobs, gil)
    assert info.value.args == (at,)
    assert "check" in [f.name for f in traceback.extract_tb(info.value.__traceback__)]


def test_no_exception_is_lost_in_a_thousand(bodies):
    n_lost = 0
    for i in range(1000):
        try:
            bodies.call_python(fail_at(i % 64), 64, 1, 3)
            n_lost += 1
        except Oops as exc:
            assert exc.args == (i % 64,)  # noqa: PT017
    assert n_lost == 0


def test_the_lowest_failing_chunk_wins(bodies):
    """All chunks begin before any of them fails, the highest first."""
    n = 4
    began = threading.Barrier(n)
    failed = [threading.Event() for _ in range(n + 1)]
    failed[n].set()

    def check(begin, end):
        began.wait()
        failed[begin + 1].wait()
        failed[begin].set()
        raise Oops(begin)

    for _ in range(20):
        for event in failed[:n]:
            event.clear()
        with pytest.raises(Oops) as info:
            bodies.call_at_once(check, n)
        assert info.value.args == (0,)


def test_chunks_that_have_not_begun_never_do(bodies):
    begun = []

    def check(begin, end):
        begun.append(begin)
        raise Oops

    with pytest.raises(Oops):
        bodies.call_python(check, 10_000, 1, 2)
    assert len(begun) <= 2


def test_a_failure_without_an_exception_is_a_runtime_error(bodies):
    with pytest.raises(RuntimeError, match="without setting an exception"):
        bodies.fail_silently(100)


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_an_exception_that_the_result_does_not_tell_of_is_raised(bodies, n_jobs):
    """On a helper thread it would be found by whatever runs there next."""
    for _ in range(20):
        with pytest.raises(ValueError, match="hidden"):
            bodies.fail_hidden(100, n_jobs)
        bodies.call_python(lambda begin, end: None, 100, 1, n_jobs)


def test_a_long_body_can_ask_for_cancellation(bodies):
    exc, n_cancelled = bodies.ask_for_cancel(3)
    assert str(exc) == "the first item"
    assert n_cancelled == 2


def test_a_loop_works_after_a_failure(bodies):
    for _ in range(3):
        with pytest.raises(Oops):
            bodies.call_python(fail_at(3), 10, 1, 2)
        assert bodies.meet(2, 2) == 2


def test_failures_in_nested_loops_reach_the_outermost_caller(bodies):
    def inner(begin, end):
        if begin == 3:
            raise Oops("inner")

    def outer(begin, end):
        bodies.call_python(inner, 10, 1, 2)

    with pytest.raises(Oops, match="inner"):
        bodies.call_python(outer, 10, 1, 2)


def test_a_failure_cancels_nested_loops_and_is_what_is_raised(bodies):
    nested_began = threading.Event()

    def outer(begin, end):
        if begin == 1:
            nested_began.wait()
            raise Oops("the failure")
        nested_began.set()
        bodies.sleep_items(100_000, 1000, 1)  # 100 s unless it is cancelled

    before = time.monotonic()
    with pytest.raises(Oops, match="the failure"):
        bodies.call_at_once(outer, 2)
    assert time.monotonic() - before < 10


def test_exceptions_are_not_kept_alive(bodies):
    class Marked(Exception):
        pass

    def check(begin, end):
        raise Marked

    for _ in range(50):
        with pytest.raises(Marked):
            bodies.call_python(check, 64, 1, 3)
    gc.collect()
    assert not [o for o in gc.get_objects() if type(o) is Marked]


def test_reference_counts_of_exceptions_are_right(bodies):
    exc = Oops("shared")

    def check(begin, end):
        raise exc

    for _ in range(20):
        try:
            bodies.call_python(check, 8, 1, 4)
        except Oops as caught:
            assert caught is exc  # noqa: PT017
        exc.__traceback__ = None
    gc.collect()
    assert sys.getrefcount(exc) <= 4


# ---- interruption --------------------------------------------------------------


@pytest.fixture
def interrupt_after():
    """Return a function that sends Ctrl-C; a shell may have SIGINT ignored."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    timers = []

    def start(delay_s):
        timers.append(threading.Timer(delay_s, signal.raise_signal, [signal.SIGINT]))
        timers[-1].start()

    yield start
    for timer in timers:
        timer.join()
    signal.signal(signal.SIGINT, old)


@pytest.mark.parametrize("gil", [True, False])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_ctrl_c_ends_a_long_loop(bodies, interrupt_after, n_jobs, gil):
    interrupt_after(0.2)
    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        bodies.sleep_items(10_000, 5_000, n_jobs, gil)  # 50 s
    assert time.monotonic() - before < 0.2 + 0.1 + 0.2  # 0.2: a loaded machine


def test_ctrl_c_ends_loops_in_loops(bodies, interrupt_after):
    interrupt_after(0.2)
    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        bodies.sleep_nested(100, 5_000, 2)
    assert time.monotonic() - before < 1.0


def test_a_signal_handler_runs_in_a_long_loop(bodies):
    seen = []
    old = signal.signal(signal.SIGUSR1, lambda *args: seen.append(time.monotonic()))
    try:
        timer = threading.Timer(0.1, signal.raise_signal, [signal.SIGUSR1])
        timer.start()
        bodies.sleep_items(100, 5_000, 2)
        end = time.monotonic()
    finally:
        signal.signal(signal.SIGUSR1, old)
        timer.join()
    assert len(seen) == 1
    assert seen[0] < end
