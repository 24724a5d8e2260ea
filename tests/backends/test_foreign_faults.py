"""Faults on executors and on backends of the user's: what can be done there is done."""

import os
import signal
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from cypar import (
    Parallel,
    ParallelBackendBase,
    TaskError,
    TaskTimeout,
    WorkerCrash,
    delayed,
)


def kill_me(i):
    if i == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return i


def fail(i):
    if i % 2:
        raise KeyError(i)
    return i


@pytest.mark.parametrize("make", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_return_on_an_executor(make):
    with make(2) as executor:
        out = Parallel(backend=executor, on_error="return")(
            delayed(fail)(i) for i in range(20)
        )
    assert out[::2] == list(range(0, 20, 2))
    assert [e.exception.args for e in out[1::2]] == [(i,) for i in range(1, 20, 2)]
    assert out[3].arguments == "i=3"


def test_an_executor_that_breaks_is_told_and_no_result_is_lost():
    """It can run nothing more: that is no task's fault, and raised."""
    with ProcessPoolExecutor(2) as executor:
        parallel = Parallel(backend=executor, on_error="return", batch_size=1)
        with pytest.raises(WorkerCrash, match="make a new one") as caught:
            parallel(delayed(kill_me)(i) for i in range(1000))
    completed = caught.value.completed
    failed = [r for r in completed.values() if isinstance(r, TaskError)]
    assert 3 in {error.index for error in failed}
    assert {error.kind for error in failed} == {"crash"}
    for index, result in completed.items():
        assert index == result or result in failed


def test_the_last_tasks_of_an_executor_that_breaks():
    with ProcessPoolExecutor(2) as executor:
        out = Parallel(backend=executor, on_error="return", pre_dispatch="all")(
            delayed(kill_me)(i) for i in (3, 3)
        )
    assert [error.kind for error in out] == ["crash", "crash"]


@pytest.mark.parametrize("mode", ["list", "generator", "generator_unordered"])
def test_late_tasks_of_an_executor_fail_alone(tmp_path, mode):
    import time

    def task(i):
        while i == 2 and not (tmp_path / "end").exists():
            time.sleep(0.01)
        return i

    with ThreadPoolExecutor(2) as executor:
        parallel = Parallel(
            backend=executor, timeout=0.3, on_error="return", return_as=mode
        )
        try:
            out = list(parallel(delayed(task)(i) for i in range(10)))
        finally:
            (tmp_path / "end").touch()
    (error,) = [r for r in out if isinstance(r, TaskError)]
    assert (error.index, error.kind) == (2, "timeout")
    assert isinstance(error.exception, TaskTimeout)
    assert sorted(r for r in out if r is not error) == [i for i in range(10) if i != 2]


class Verbose(ParallelBackendBase):
    """Notes the verbosity that it is told, and prints as joblib's backends do."""

    seen = None

    def effective_n_jobs(self, n_jobs):
        return 2

    def apply_async(self, func, callback=None):
        type(self).seen = self.parallel.verbose
        self.parallel._print("Running %s", "here")
        callback(func())


@pytest.mark.parametrize("verbose", [0, 11])
def test_a_backend_is_told_the_verbosity(verbose, capfd):
    out = Parallel(n_jobs=2, backend=Verbose(), verbose=verbose)([delayed(abs)(-1)])
    assert out == [1]
    assert Verbose.seen == verbose
    assert ("Running here" in capfd.readouterr().err) == bool(verbose)
