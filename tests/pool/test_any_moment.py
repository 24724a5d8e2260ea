"""Ctrl-C, or another thread, between any two steps of the pool."""

import inspect
import itertools
import reprlib
import sys
import threading

import pytest

from cypar import Parallel, delayed
from cypar.backends.pool import dispatcher, supervisor
from cypar.core import traceback_text


class CtrlC:
    """Raises KeyboardInterrupt at the k-th place where the interpreter would.

    It looks for signals when a function begins and when one that is written in C has
    returned. (What looks like the begin of a generator may be its end.)

    Parameters
    ----------
    k : int
    places : set of str and code
        Files, and functions, in which it may come.
    """

    def __init__(self, k, places):
        self.left = k
        self.places = places

    def __enter__(self):
        sys.setprofile(self.look)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    @property
    def came(self):
        return self.left < 0

    def look(self, frame, event, argument):
        code = frame.f_code
        if code.co_flags & inspect.CO_GENERATOR:
            return
        if code.co_filename not in self.places and code not in self.places:
            return
        if event in ("call", "c_return"):
            self.left -= 1
            if self.left == -1:
                sys.setprofile(None)
                raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_ctrl_c_at_any_moment_of_a_call_keeps_nothing(fresh_pool):
    files = {dispatcher.__file__, supervisor.__file__}

    def call():
        assert Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(9)) == [*range(9)]

    call()
    for k in itertools.count():
        with CtrlC(k, files) as ctrl_c:
            try:
                call()
            except KeyboardInterrupt:
                assert ctrl_c.came
        leased = fresh_pool.pids()[1]
        assert leased == []
        assert not fresh_pool._calls
        assert fresh_pool.server.working <= {
            w.process._number for w in fresh_pool._idle
        }
        if not ctrl_c.came:
            break
        call()
    assert k > 100


def fail(value, other):
    raise ValueError(str(value))


class Shown:
    def __repr__(self):
        return "shown"


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_ctrl_c_while_a_failure_is_described_is_not_swallowed(n_jobs):
    places = {traceback_text.__file__, inspect.__file__, reprlib.__file__}
    places.add(Shown.__repr__.__code__)
    # a worker's failures it describes itself; what cannot be sent, the caller does
    other = threading.Lock() if n_jobs > 1 else None

    def call():
        tasks = [delayed(fail)(Shown(), other) for _ in range(3)]
        return Parallel(n_jobs, on_error="return")(tasks)

    assert len(call()) == 3
    for k in itertools.count():
        interrupted = False
        with CtrlC(k, places) as ctrl_c:
            try:
                call()
            except KeyboardInterrupt:
                interrupted = True
        assert interrupted == ctrl_c.came, k
        if not ctrl_c.came:
            break
    assert k > 10


@pytest.mark.timeout(120)
def test_ctrl_c_while_a_failure_is_described_keeps_what_is_completed():
    places = {traceback_text.__file__, Shown.__repr__.__code__}
    tasks = [delayed(abs)(-1), delayed(abs)(-2), delayed(fail)(Shown(), None)]
    for k in itertools.count():
        with (
            CtrlC(k, places) as ctrl_c,
            pytest.raises((KeyboardInterrupt, ValueError)) as caught,
        ):
            Parallel(n_jobs=1)(tasks)
        assert caught.value.completed == {0: 1, 1: 2}
        assert isinstance(caught.value, KeyboardInterrupt) == ctrl_c.came
        if not ctrl_c.came:
            break
    assert k > 3


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_shutdown_keeps_the_workers_of_a_call_that_begins_meanwhile(
    fresh_pool, signals, moment_at
):
    def is_shutdown(frame):
        return frame.f_code is supervisor.Pool.shutdown.__code__

    def is_unlocked():  # others would wait for the lock
        return not fresh_pool._lock.locked()

    for k in itertools.count():
        begun, go_on = f"begun {k}", f"go on {k}"
        results = []

        def task(i, signals=signals, begun=begun, go_on=go_on):
            signals.set(begun)
            signals.wait(go_on)
            return i

        def call(task=task, results=results):
            tasks = [delayed(task)(i) for i in range(2)]
            results.append(Parallel(n_jobs=2, on_error="return")(tasks))

        thread = threading.Thread(target=call)

        def begin(thread=thread, begun=begun):
            thread.start()
            signals.wait(begun)

        Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(2))
        with moment_at(k, begin, is_shutdown, is_unlocked) as moment:
            fresh_pool.shutdown()
        signals.set(go_on)
        if not moment.came:
            break
        thread.join(20)
        assert results == [[0, 1]]
    assert k > 5
