"""A fault costs one task: the others run, the other workers stay, it is retried."""

import ctypes
import os
import signal
import time

import pytest

from cypar import (
    NoProgressError,
    Parallel,
    TaskError,
    TaskTimeout,
    WorkerCrash,
    delayed,
)
from cypar.backends import stall
from cypar.backends.batch_sizes import BatchSizes
from cypar.backends.pool.dispatcher import Dispatcher
from cypar.backends.pool.sending import Sender

MODES = ("list", "generator", "generator_unordered")


def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    os._exit(7)


def segfault():
    ctypes.string_at(1)


def abort():
    os.abort()


FAULTS = {
    kill_me: (-signal.SIGKILL, "SIGKILL, likely out of memory"),
    leave: (7, "exited with code 7"),
    segfault: (-signal.SIGSEGV, "SIGSEGV: compiled code failed"),
    abort: (-signal.SIGABRT, "SIGABRT"),
}


def pids_of_two(signals, name):
    return set(Parallel(n_jobs=2)(delayed(signals.meet)(name, 2) for _ in range(2)))


# ---- crashes -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_crash_costs_one_task(two_workers, signals, fault, mode, capfd):
    def task(i, name="n"):
        signals.note("run", i)
        if i == 20:
            fault()
        return i

    out = list(
        Parallel(n_jobs=2, on_error="return", return_as=mode)(
            delayed(task)(i) for i in range(40)
        )
    )
    (error,) = [r for r in out if isinstance(r, TaskError)]
    assert sorted(r for r in out if r is not error) == [i for i in range(40) if i != 20]
    assert (error.index, error.kind, error.attempts) == (20, "crash", 1)
    assert error.function.endswith("task")
    assert error.arguments == "i=20, name='n'"
    exitcode, words = FAULTS[fault]
    assert error.exception.exitcode == exitcode
    for part in ("task 20 (", "task(i=20, name='n')", words):
        assert part in str(error.exception)
    assert sorted(map(int, signals.notes("run"))) == list(range(40))
    after = pids_of_two(signals, "after")
    assert len(after) == 2
    assert len(after & two_workers) == 1


@pytest.mark.parametrize("batch_size", [1, 1000, "auto"])
def test_each_task_of_a_fast_batch_runs_once(two_workers, signals, batch_size):
    def task(i):
        signals.note("run", i)
        if i in (300, 301, 777):
            kill_me()
        return i

    out = Parallel(
        n_jobs=2, batch_size=batch_size, pre_dispatch="all", on_error="return"
    )(delayed(task)(i) for i in range(1000))
    failed = [i for i, r in enumerate(out) if isinstance(r, TaskError)]
    assert failed == [300, 301, 777]
    assert all(r == i for i, r in enumerate(out) if i not in failed)
    assert sorted(map(int, signals.notes("run"))) == list(range(1000))


def test_workers_killed_from_outside_cost_at_most_a_task_each(
    two_workers, fresh_pool, signals
):
    """At any moment: while results are on their way, too."""

    def task(i):
        signals.note("run", i)
        return i

    def tasks():
        for i in range(2000):
            if i in (500, 1500):
                os.kill(max(fresh_pool.pids()[1]), signal.SIGKILL)
            yield delayed(task)(i)

    out = Parallel(n_jobs=2, on_error="return")(tasks())
    failed = [r for r in out if isinstance(r, TaskError)]
    assert len(failed) <= 2
    assert all(r == i for i, r in enumerate(out) if not isinstance(r, TaskError))
    ran = sorted(map(int, signals.notes("run")))
    assert len(ran) == len(set(ran))
    # the worker may have died before the task's first line
    assert set(range(2000)) - set(ran) <= {error.index for error in failed}


def test_arguments_of_a_crash_are_shown_without_running_user_code(two_workers):
    class Secret:
        def __setstate__(self, state):
            if os.getpid() == parent:
                raise AssertionError("loaded in the parent")

        def __reduce__(self):
            return Secret, (), {"a": 1}

    parent = os.getpid()

    def task(data, flag):
        leave()

    data = {"k": [1, Secret()], "l": "x" * 1000}
    with pytest.raises(WorkerCrash) as caught:
        Parallel(n_jobs=2)([delayed(task)(data, flag=True), delayed(abs)(1)])
    assert "<Secret>" in caught.value.arguments
    assert "flag=True" in caught.value.arguments
    assert len(caught.value.arguments) <= 500


def test_arrays_are_shown_by_their_shape(two_workers):
    numpy = pytest.importorskip("numpy")

    def task(array):
        leave()

    with pytest.raises(WorkerCrash) as caught:
        Parallel(n_jobs=2)([delayed(task)(numpy.zeros((300, 1000))), delayed(abs)(1)])
    assert "shape=(300, 1000)" in caught.value.arguments


def test_a_function_that_kills_as_it_is_loaded_is_told(two_workers, capfd):
    """No task has begun then; new workers must not be started for it without end."""

    class Bomb:
        def __reduce__(self):
            return os._exit, (5,)

    bomb = Bomb()

    def task():
        return bomb

    out = Parallel(n_jobs=2, on_error="return", batch_size=1)(
        [delayed(abs)(-1), delayed(task)(), delayed(abs)(-2)]
    )
    assert (out[0], out[2]) == (1, 2)
    assert out[1].kind == "crash"
    assert out[1].exception.exitcode == 5


# ---- 'raise' -----------------------------------------------------------------------


def test_the_first_fault_kills_busy_workers_and_has_what_is_finished(
    two_workers, signals, ended
):
    def task(i):
        if i == 5:
            signals.wait("long runs")
            leave()
        if i == 6:
            signals.note("pid", os.getpid())
            signals.set("long runs")
            signals.wait("never", 60)
        return i

    drawn = []

    def tasks():
        for i in range(10_000):
            drawn.append(i)
            yield delayed(task)(i)

    start = time.monotonic()
    with pytest.raises(WorkerCrash) as caught:
        Parallel(n_jobs=2, batch_size=1)(tasks())
    assert time.monotonic() - start < 5
    completed = caught.value.completed
    assert completed
    assert not {5, 6} & set(completed)
    assert all(index == value for index, value in completed.items())
    assert len(drawn) < 1000
    (pid,) = map(int, signals.notes("pid"))
    signals.until(lambda: ended(pid), "the end of the busy worker")


# ---- retries -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_task_is_started_again_when_its_worker_died(two_workers, signals, mode):
    def task(i):
        signals.note("run", i)
        if i in (7, 30) and signals.notes("run").count(str(i)) == 1:
            kill_me()
        return i

    out = list(
        Parallel(n_jobs=2, retries=1, return_as=mode)(
            delayed(task)(i) for i in range(50)
        )
    )
    assert sorted(out) == list(range(50))
    assert mode == "generator_unordered" or out == list(range(50))
    ran = sorted(map(int, signals.notes("run")))
    assert ran == sorted([*range(50), 7, 30])


@pytest.mark.parametrize("on_error", ["raise", "return"])
def test_a_task_that_kills_again_is_told_with_its_attempts(
    two_workers, signals, on_error
):
    def task(i):
        signals.note("run", i)
        if i == 3:
            kill_me()
        return i

    parallel = Parallel(n_jobs=2, retries=2, on_error=on_error)
    tasks = [delayed(task)(i) for i in range(6)]
    if on_error == "return":
        error = parallel(tasks)[3]
        assert error.attempts == 3
        error = error.exception
    else:
        with pytest.raises(WorkerCrash) as caught:
            parallel(tasks)
        error = caught.value
    assert error.attempts == 3
    assert "3 attempts" in str(error)
    assert signals.notes("run").count("3") == 3


def test_large_arguments_are_there_for_the_second_attempt(two_workers, signals):
    numpy = pytest.importorskip("numpy")

    def task(i, array):
        signals.note("run", i)
        if i == 1 and signals.notes("run").count("1") == 1:
            kill_me()
        return float(array.sum())

    out = Parallel(n_jobs=2, retries=1)(
        delayed(task)(i, numpy.full(300_000, float(i))) for i in range(8)
    )
    assert out == [300_000.0 * i for i in range(8)]


def test_a_timeout_is_not_tried_again(two_workers, signals):
    def task():
        signals.note("run", 0)
        signals.wait("never", 60)

    with pytest.raises(TaskTimeout):
        Parallel(n_jobs=2, retries=2, timeout=0.2)([delayed(task)(), delayed(abs)(1)])
    assert len(signals.notes("run")) == 1


# ---- timeouts ----------------------------------------------------------------------


def hold_the_gil():
    sum(range(10**12))


@pytest.mark.parametrize("late", [hold_the_gil, lambda: time.sleep(60)])
@pytest.mark.parametrize("mode", MODES)
def test_a_timeout_kills_that_worker_only(two_workers, signals, late, mode):
    def task(i):
        if i == 3:
            signals.note("late", os.getpid())
            late()
        return i

    out = list(
        Parallel(n_jobs=2, timeout=1.0, on_error="return", return_as=mode)(
            delayed(task)(i) for i in range(12)
        )
    )
    (error,) = [r for r in out if isinstance(r, TaskError)]
    assert (error.index, error.kind) == (3, "timeout")
    assert sorted(r for r in out if r is not error) == [i for i in range(12) if i != 3]
    (pid,) = map(int, signals.notes("late"))
    after = pids_of_two(signals, "after")
    assert two_workers - {pid} <= after
    assert pid not in after


# ---- faults of our own -------------------------------------------------------------


@pytest.fixture
def quick_watch(monkeypatch):
    monkeypatch.setattr(stall, "LIMIT_S", 0.3)
    monkeypatch.setattr(stall, "CHECK_S", 0.05)


@pytest.mark.parametrize("mode", MODES)
def test_a_lost_message_becomes_an_error(two_workers, quick_watch, monkeypatch, mode):
    send = Sender.send

    def lose_the_sixth(self, worker, tasks, state):
        if tasks[0][0] == 5:
            tasks[:] = []
            return
        send(self, worker, tasks, state)

    monkeypatch.setattr(Sender, "send", lose_the_sixth)
    with pytest.raises(NoProgressError) as caught:
        list(
            Parallel(n_jobs=2, batch_size=1, return_as=mode)(
                delayed(abs)(-i) for i in range(20)
            )
        )
    text = str(caught.value)
    for part in ("0.3 s", "20 were drawn and only 19", "worker ", "thread MainThread"):
        assert part in text
    assert 5 not in caught.value.completed
    monkeypatch.undo()
    assert Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(9)) == list(range(9))


def test_workers_that_wait_for_a_task_they_never_get(
    two_workers, quick_watch, monkeypatch
):
    monkeypatch.setattr(Dispatcher, "dispatch", lambda self: None)
    with pytest.raises(NoProgressError, match="pending"):
        Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(20))


@pytest.mark.parametrize("where", ["task", "load", "input", "reader"])
def test_what_takes_long_is_no_hang(two_workers, quick_watch, where):
    class Slow:
        def __reduce__(self):
            return time.sleep, (0.8,)

    slow = Slow()

    def task(i):
        if i == 2 and where == "task":
            time.sleep(0.8)
        return i, slow if where == "load" else None

    def tasks():
        for i in range(4):
            if i == 2 and where == "input":
                time.sleep(0.8)
            yield delayed(task)(i)

    generator = Parallel(n_jobs=2, return_as="generator", batch_size=1)(tasks())
    out = []
    for index, _ in generator:
        out.append(index)
        if where == "reader" and index == 1:
            time.sleep(0.8)
    assert out == list(range(4))


def test_workers_are_discarded_after_a_fault_of_ours(two_workers, signals, monkeypatch):
    monkeypatch.setattr(BatchSizes, "observe", lambda self, batch: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(20))
    monkeypatch.undo()
    assert not pids_of_two(signals, "after") & two_workers
