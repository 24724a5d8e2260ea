"""Starting workers: what cannot start is told; no more are started than needed."""

import sys

import pytest

from cypar import Parallel, PoolStartError, delayed, effective_n_jobs
from cypar.arguments import MAX_COUNT

TOO_LARGE = "x" * (1 << 17)  # one string may have 128 kB, its zero included


@pytest.mark.parametrize(
    ("executable", "part"),
    [
        ("/bin/true", "sys.executable"),
        ("/bin/false", "sys.executable"),
        ("/no/such/python", "/no/such/python"),
        ("/etc/passwd", "/etc/passwd"),
        ("", "sys.executable"),
        (None, "sys.executable"),
    ],
)
def test_executable_that_is_no_python(fresh_pool, monkeypatch, executable, part):
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(PoolStartError, match=part):
        Parallel(n_jobs=2)(delayed(abs)(i) for i in range(4))
    monkeypatch.undo()
    assert Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(4)) == [0, 1, 2, 3]


def test_end_of_stderr_is_in_the_message(fresh_pool, monkeypatch, tmp_path):
    script = tmp_path / "broken"
    script.write_text("#!/bin/sh\necho the reason why >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(PoolStartError, match="the reason why"):
        Parallel(n_jobs=2)(delayed(abs)(i) for i in range(4))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit of Linux")
@pytest.mark.parametrize("start_method", ["fork", "exec"])
def test_environment_variable_that_is_too_large_is_named(
    fresh_pool, monkeypatch, start_method
):
    monkeypatch.setenv("CYPAR_START_METHOD", start_method)
    monkeypatch.setenv("CYPAR_TEST_LARGE", TOO_LARGE)
    monkeypatch.setenv("CYPAR_TEST_LESS", "x" * 20_000)
    with pytest.raises(PoolStartError) as caught:
        Parallel(n_jobs=2)(delayed(abs)(i) for i in range(4))
    message = str(caught.value)
    assert "Argument list too long" in message
    assert "'CYPAR_TEST_LARGE' (131089 bytes), " in message
    assert "'CYPAR_TEST_LESS' (20016 bytes)" in message
    assert "Expected the path" not in message
    monkeypatch.delenv("CYPAR_TEST_LARGE")
    fresh_pool.shutdown()
    assert Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(4)) == [0, 1, 2, 3]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit of Linux")
def test_path_that_is_too_large_is_named(fresh_pool, monkeypatch):
    monkeypatch.setenv("CYPAR_START_METHOD", "exec")
    monkeypatch.syspath_prepend(f"/{TOO_LARGE}")
    with pytest.raises(PoolStartError, match=r"The largest here: sys.path \("):
        Parallel(n_jobs=2)(delayed(abs)(i) for i in range(4))


def test_start_error_in_generator_mode(fresh_pool, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    generator = Parallel(n_jobs=2, return_as="generator")(
        delayed(abs)(i) for i in range(4)
    )
    with pytest.raises(PoolStartError):
        next(generator)


@pytest.mark.parametrize(("n_tasks", "n_workers"), [(0, 0), (1, 1), (2, 2)])
def test_no_more_workers_than_tasks(fresh_pool, n_tasks, n_workers):
    Parallel(n_jobs=6)(delayed(abs)(i) for i in range(n_tasks))
    idle, leased = fresh_pool.pids()
    assert leased == []
    assert len(idle) == n_workers


@pytest.mark.parametrize("n_jobs", [2**31, 2**63, 10**30, -(10**30)])
@pytest.mark.parametrize("backend", ["processes", "threading"])
def test_n_jobs_beyond_any_use(fresh_pool, backend, n_jobs):
    results = Parallel(n_jobs=n_jobs, backend=backend)(delayed(abs)(-i) for i in [1, 2])
    assert results == [1, 2]
    assert effective_n_jobs(n_jobs) == (MAX_COUNT if n_jobs > 0 else 1)


def test_no_more_workers_than_jobs(fresh_pool):
    Parallel(n_jobs=2)(delayed(abs)(i) for i in range(100))
    assert len(fresh_pool.pids()[0]) == 2


def test_no_thread_in_list_mode(fresh_pool):
    import threading

    before = threading.enumerate()
    seen = []

    def tasks():
        for i in range(100):
            seen.extend(set(threading.enumerate()) - set(before))
            yield delayed(abs)(i)

    Parallel(n_jobs=2)(tasks())
    assert seen == []


def test_call_that_cannot_begin_leaves_nothing(fresh_pool, monkeypatch):
    """No descriptor is left for a fork server, say; the leak check sees the rest."""

    def fail(*args):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(fresh_pool.server, "prepare", fail)
        with pytest.raises(OSError, match="Too many"):
            Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(3))
    assert Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
