"""A worker that dies costs one task: the error names it, all else goes on."""

import contextlib
import ctypes
import os
import pickle
import signal
import sys

import pytest

from cypar import InitializerError, Parallel, WorkerCrash, delayed
from cypar.backends.pool import process


def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    os._exit(7)


def segfault():
    ctypes.string_at(1)


def pids_of(parallel, signals, name):
    return set(parallel(delayed(signals.meet)(name, 2) for _ in range(2)))


@pytest.mark.parametrize(
    ("task", "exitcode", "word"),
    [
        (kill_me, -signal.SIGKILL, "SIGKILL"),
        (leave, 7, "7"),
        (segfault, -signal.SIGSEGV, "SIGSEGV"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_crash_is_told_with_index_function_and_cause(
    two_workers, task, exitcode, word, capfd
):
    tasks = [delayed(abs)(i) for i in range(3)] + [delayed(task)()]
    with pytest.raises(WorkerCrash) as caught:
        Parallel(n_jobs=2, batch_size=1)(tasks)
    error = caught.value
    assert error.task_index == 3
    assert task.__name__ in error.function
    assert error.exitcode == exitcode
    assert error.attempts == 1
    for part in ("3", task.__name__, word):
        assert part in str(error)
    if task is kill_me:
        assert "memory" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (again.task_index, again.exitcode) == (3, exitcode)


def test_other_workers_live_on_and_the_next_call_works(two_workers, signals):
    parallel = Parallel(n_jobs=2)
    with pytest.raises(WorkerCrash):
        parallel([delayed(abs)(1), delayed(leave)(), delayed(abs)(1)])
    after = pids_of(parallel, signals, "after")
    assert len(after) == 2
    assert len(after & two_workers) == 1


def test_crash_in_a_block(two_workers):
    with Parallel(n_jobs=2) as parallel:
        for _ in range(5):
            with pytest.raises(WorkerCrash):
                parallel([delayed(abs)(1), delayed(kill_me)()])
            assert parallel(delayed(abs)(-i) for i in range(20)) == list(range(20))


def test_worker_that_fails_itself_says_why(run_script):
    """Not silently, with the exit code of a healthy end."""
    done = run_script(
        """
        from cypar import Parallel, WorkerCrash, delayed

        def task():
            import sys

            sys.modules["cypar.transport.failures"] = None  # needed to report errors
            raise ValueError("of the task")

        try:
            Parallel(n_jobs=2, batch_size=1)([delayed(task)(), delayed(abs)(1)])
        except WorkerCrash as error:
            print(error.exitcode)
        """
    )
    assert done.stdout == "1\n"
    assert "import of cypar.transport.failures halted" in done.stderr


def test_crash_while_data_waits_for_the_worker(two_workers):
    """Its end is seen twice: by what it does not take any more, and by its process."""

    def task(i, data):
        if i == 2:
            leave()

    for _ in range(4):
        with pytest.raises(WorkerCrash) as caught:
            Parallel(n_jobs=2, batch_size=7, pre_dispatch="all")(
                delayed(task)(i, os.urandom(70_000)) for i in range(28)
            )
        assert caught.value.task_index == 2


def become_another_program():
    os.execv(sys.executable, [sys.executable, "-c", "import signal; signal.pause()"])


def close_all(signals):
    os.closerange(3, 256)
    signals.wait("never", 60)


def overwrite_all(signals):
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3, 256):
        if fd != null:
            os.dup2(null, fd)
    signals.wait("never", 60)


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["fork", "exec"])
@pytest.mark.parametrize("task", [become_another_program, close_all, overwrite_all])
def test_task_that_cuts_its_worker_off_is_told_as_that(
    fresh_pool, signals, monkeypatch, task, start_method
):
    """Not as a kill for want of memory, although it is cypar that kills it then."""
    monkeypatch.setenv("CYPAR_START_METHOD", start_method)
    arguments = () if task is become_another_program else (signals,)
    with pytest.raises(WorkerCrash, match="closed its connection") as caught:
        Parallel(n_jobs=2, batch_size=1)([delayed(task)(*arguments), delayed(abs)(1)])
    error = caught.value
    assert error.exitcode is None
    assert (error.task_index, error.attempts) == (0, 1)
    assert "memory" not in str(error)
    assert "SIGKILL" not in str(error)
    assert Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(9)) == list(range(9))


@pytest.mark.slow
def test_initializer_that_cuts_its_worker_off(fresh_pool, signals):
    with pytest.raises(InitializerError, match="closed its connection"):
        Parallel(n_jobs=2, initializer=close_all, initargs=(signals,))(
            delayed(abs)(i) for i in range(3)
        )


@pytest.mark.slow
def test_task_that_is_done_after_it_has_closed_all(fresh_pool):
    """Its result is there; the worker, which cannot go on, costs no other task."""

    def task(i):
        if i == 3:
            os.closerange(3, 256)
        return i

    results = Parallel(n_jobs=2, batch_size=1)(delayed(task)(i) for i in range(9))
    assert results == list(range(9))


@pytest.mark.parametrize("task", [kill_me, leave])
def test_end_of_a_process_is_not_waited_for(two_workers, monkeypatch, task):
    """The time that one may live on without its channel is no delay for others."""
    monkeypatch.setattr(process, "GRACE_S", 3600.0)
    for _ in range(5):
        with pytest.raises(WorkerCrash) as caught:
            Parallel(n_jobs=2)([delayed(abs)(1), delayed(task)()])
        assert caught.value.exitcode is not None


def test_crash_between_two_calls(two_workers, signals):
    """Idle workers are killed by somebody: the next call does not notice."""
    for pid in two_workers:
        os.kill(pid, signal.SIGKILL)
    after = pids_of(Parallel(n_jobs=2), signals, "after")
    assert len(after) == 2
    assert not after & two_workers


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_crash_in_generator_modes(two_workers, return_as):
    generator = Parallel(n_jobs=2, return_as=return_as, batch_size=1)(
        delayed(leave if i == 5 else abs)(*([] if i == 5 else [i])) for i in range(50)
    )
    with pytest.raises(WorkerCrash):
        list(generator)
    assert list(generator) == []


@pytest.mark.parametrize("batch_size", [1, 50, "auto"])
def test_no_task_runs_twice(two_workers, signals, batch_size):
    """Killed in the middle of many fast tasks: the others are not started again."""

    def task(i):
        signals.note("run", i)
        if i == 500:
            kill_me()

    with pytest.raises(WorkerCrash) as caught:
        Parallel(n_jobs=2, batch_size=batch_size)(
            delayed(task)(i) for i in range(1_000)
        )
    assert caught.value.task_index == 500
    ran = signals.notes("run")
    assert len(ran) == len(set(ran))
    assert "500" in ran


def test_no_task_runs_twice_when_killed_from_outside(two_workers, signals):
    """At any moment, also while a result is on its way."""

    def task(i):
        signals.note("run", i)
        return i

    def tasks():
        for i in range(1_000):
            if i == 700:
                os.kill(min(two_workers), signal.SIGKILL)
            yield delayed(task)(i)

    with contextlib.suppress(WorkerCrash):  # unless it died between two tasks
        assert Parallel(n_jobs=2)(tasks()) == list(range(1_000))
    ran = signals.notes("run")
    assert len(ran) == len(set(ran))


def test_long_task_holds_up_none_behind_it(two_workers, signals):
    """What waits in the same batch is taken back and run by the other worker."""
    n = 400

    def task(i):
        if i == 3:
            signals.until(lambda: len(signals.notes("run")) >= n - 1, "all others")
        signals.note("run", i)
        return i

    out = Parallel(n_jobs=2, batch_size=100, pre_dispatch="all")(
        delayed(task)(i) for i in range(n)
    )
    assert out == list(range(n))
    assert len(signals.notes("run")) == n


def test_subprocesses_of_a_killed_task_end_too(two_workers, signals, ended):
    def task():
        import subprocess

        child = subprocess.Popen(["sleep", "60"])
        signals.note("child", child.pid)
        signals.wait("never", 60)

    with pytest.raises(TimeoutError):
        Parallel(n_jobs=2, timeout=0.5)([delayed(task)(), delayed(abs)(1)])
    pid = int(signals.notes("child")[0])
    signals.until(lambda: ended(pid), "the end of the task's subprocess")
