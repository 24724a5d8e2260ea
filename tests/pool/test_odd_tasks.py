"""Tasks that do to their worker what no task should do, and inputs of odd shapes."""

import os
import pathlib
import random
import resource
import subprocess
import sys

import pytest

from cypar import Parallel, WorkerCrash, delayed

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def bounded_memory():
    """Let a parent that takes in nonsense without end fail, not the machine."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


# ---- tasks that fork or close what is not theirs -------------------------------------


def fork_at(i, place):
    """The child returns like a task: it must not speak for the worker."""
    if i == place and os.fork() == 0:
        return "child"
    return i


def test_forked_child_does_not_speak_for_the_worker(two_workers, bounded_memory):
    parallel = Parallel(n_jobs=2)
    for n in (10, 300):
        assert parallel(delayed(fork_at)(i, 3) for i in range(n)) == list(range(n))
        for _ in range(20):  # nor later, when the worker has other tasks
            assert parallel(delayed(abs)(-i) for i in range(n)) == list(range(n))


def leave_a_child_and_die(path):
    process = subprocess.Popen(["sleep", "100"])
    with open(path, "w") as file:
        file.write(str(process.pid))
    os._exit(7)


def test_grandchild_does_not_hide_the_death(two_workers, signals, ended):
    """It holds copies of the worker's descriptors and belongs to its group."""
    path = signals.path("pid")
    with pytest.raises(WorkerCrash, match="exited with code 7"):
        Parallel(n_jobs=2)([delayed(leave_a_child_and_die)(path)])
    with open(path) as file:
        pid = int(file.read())
    signals.until(lambda: ended(pid), "the end of the grandchild")


def close_descriptors(i):
    if i == 3:
        os.closerange(3, 1024)
    return i


def test_task_that_closes_all_descriptors(two_workers):
    parallel = Parallel(n_jobs=2)
    try:
        results = parallel(delayed(close_descriptors)(i) for i in range(10))
    except WorkerCrash:
        pass  # it took its worker along
    else:
        assert results == list(range(10))
    assert parallel(delayed(abs)(-i) for i in range(10)) == list(range(10))


# ---- inputs --------------------------------------------------------------------------


def test_more_functions_than_a_worker_keeps(two_workers):
    names = {}
    for k in range(600):
        exec(f"def f{k}(x): return x * 1000 + {k}", names)
    functions = [names[f"f{k}"] for k in range(600)]
    results = Parallel(n_jobs=2)(delayed(f)(i) for i in range(3) for f in functions)
    assert results == [i * 1000 + k for i in range(3) for k in range(600)]


def test_more_closures_than_a_worker_keeps(two_workers):
    def make(k):
        captured = [k]
        return lambda x: x * 1000 + captured[0]

    functions = [make(k) for k in range(600)]
    results = Parallel(n_jobs=2)(delayed(f)(i) for i in range(3) for f in functions)
    assert results == [i * 1000 + k for i in range(3) for k in range(600)]


def echo(*args, **kwargs):
    return args, kwargs


def test_mutable_and_immutable_arguments_in_one_batch(two_workers):
    chance = random.Random(1)
    calls = [
        (
            (i,) if chance.random() < 0.5 else ([i],),
            {} if chance.random() < 0.7 else {"k": i},
        )
        for i in range(3000)
    ]
    assert Parallel(n_jobs=2)(delayed(echo)(*a, **k) for a, k in calls) == calls


def grow(data):
    return data + b"x"


def test_large_arguments_and_results_at_once(two_workers):
    size = 12 << 20
    results = Parallel(n_jobs=2)(delayed(grow)(bytes(size)) for _ in range(8))
    assert [len(result) for result in results] == [size + 1] * 8


def test_large_exception(two_workers):
    def fail():
        raise ValueError("x" * 3_000_000)

    with pytest.raises(ValueError, match="xxx") as caught:
        Parallel(n_jobs=2)([delayed(fail)()] * 2)
    assert len(str(caught.value)) == 3_000_000


# ---- the parent's surroundings -------------------------------------------------------


def test_path_with_entries_that_are_no_strings(fresh_pool, monkeypatch, tmp_path):
    # Python ignores them; programs put pathlib.Path objects there by mistake
    monkeypatch.setattr(sys, "path", [tmp_path, *sys.path, pathlib.Path("/nowhere")])
    assert Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(4)) == [0, 1, 2, 3]


@pytest.mark.skipif(
    sys.version_info[:3] == (3, 13, 0),
    reason="this Python cannot import socket in a directory that was removed",
)
def test_directory_that_was_removed(fresh_pool, monkeypatch, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(4)) == [0, 1, 2, 3]


def test_environment_that_is_no_text(two_workers):
    os.environb[b"CYPAR_TEST_ODD"] = b"\xff\xfe="
    try:
        results = Parallel(n_jobs=2)([delayed(odd_variable)()] * 2)
    finally:
        del os.environb[b"CYPAR_TEST_ODD"]
    assert results == [b"\xff\xfe="] * 2


def odd_variable():
    return os.environb.get(b"CYPAR_TEST_ODD")


def test_fewer_workers_where_descriptors_run_out(run_script):
    """n_jobs is a maximum: if the first worker starts, the call goes on with it."""
    run_script(
        """
        import os, resource
        from cypar import Parallel, PoolStartError, delayed
        from cypar.backends.pool.supervisor import pool

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        Parallel(n_jobs=1)([delayed(abs)(1)])
        outcomes = []
        for extra in range(4, 24):
            pool.shutdown()
            n_open = max(map(int, os.listdir("/proc/self/fd")))
            resource.setrlimit(resource.RLIMIT_NOFILE, (n_open + extra, hard))
            try:
                parallel = Parallel(n_jobs=2)
                assert parallel(delayed(abs)(-i) for i in range(9)) == list(range(9))
                outcomes.append(len(pool.pids()[0]))
            except PoolStartError:
                outcomes.append(0)
            except OSError as error:
                outcomes.append(0)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        assert outcomes == sorted(outcomes), outcomes
        assert outcomes[-1] == 2, outcomes
        assert 1 in outcomes, outcomes  # with room for one worker only
        """
    )


def test_a_task_that_uses_up_all_descriptors(run_script):
    """It fails with its own error, although nothing can be opened any more."""
    run_script(
        """
        import os, resource
        from cypar import Parallel, delayed

        def use_up():
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (60, hard))
            files = []
            while True:
                files.append(open(os.devnull))

        for _ in range(2):  # the second finds all that is needed imported
            try:
                Parallel(n_jobs=2)(delayed(use_up)() for _ in range(2))
            except OSError as error:
                assert type(error) is OSError and error.errno == 24, repr(error)
            else:
                raise AssertionError("no error")
        """
    )
