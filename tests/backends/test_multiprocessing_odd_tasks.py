"""Tasks that do to a worker of the 'multiprocessing' backend what they should not."""

import os
import re
import signal
import sys
import threading

import pytest

from cypar import Parallel, TaskError, WorkerCrash, delayed
from cypar.backends import multiprocessing_ends, multiprocessing_pool

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="the workers' page needs POSIX memory"
)


def make_parallel(**options):
    return Parallel(n_jobs=2, backend="multiprocessing", **options)


# ---- tasks that fork -----------------------------------------------------------------


def returns(i):
    return "child"


def returns_much(i):
    return b"child" * 100_000


def raises(i):
    raise ValueError("child")


def leaves(i):
    raise SystemExit(3)


@pytest.mark.parametrize("batch_size", [1, 10])
@pytest.mark.parametrize("child", [returns, returns_much, raises, leaves])
def test_a_forked_child_does_not_speak_for_the_worker(tmp_path, child, batch_size):
    """Nor does it go on as a second worker: each task runs once."""
    log = tmp_path / "log"

    def task(i):
        with open(log, "ab", buffering=0) as file:
            file.write(b"%d\n" % i)
        if i == 3 and os.fork() == 0:
            return child(i)
        return i

    with make_parallel(batch_size=batch_size) as parallel:
        for _ in range(3):
            log.write_bytes(b"")
            assert parallel(delayed(task)(i) for i in range(40)) == list(range(40))
            assert sorted(map(int, log.read_text().split())) == list(range(40))


class ForksOnLoad:
    """In a worker, its forked child goes on to load as if it were the worker."""

    def __reduce__(self):
        return fork_and_return, (os.getpid(),)


def fork_and_return(parent):
    if os.getpid() != parent:
        os.fork()


@pytest.mark.parametrize("where", ["function", "argument"])
def test_a_child_forked_by_what_is_loaded_takes_no_tasks(where):
    forks = ForksOnLoad()
    in_function = forks if where == "function" else None

    def task(i, argument):
        return i, os.getpid(), in_function

    tasks = [delayed(task)(i, forks if where == "argument" else 0) for i in range(40)]
    out = make_parallel(batch_size=10)(tasks)
    assert [i for i, _, _ in out] == list(range(40))
    assert len({pid for _, pid, _ in out}) <= 2


# ---- tasks that leave their worker without a connection ------------------------------

CUT_OFF = r"closed its connection.* \(did the task exec another program, or close all"

on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="a process has a descriptor on Linux only"
)


@pytest.fixture
def ends_count(monkeypatch):
    """Let who waits for an end or an exit code in vain wait for ever."""
    monkeypatch.setattr(multiprocessing_pool, "CLOSE_S", 1000)
    monkeypatch.setattr(multiprocessing_pool, "DEATH_S", 1000)


def execs():
    os.execv("/bin/sleep", ["sleep", "1000"])


def closes_all():
    os.closerange(3, 4096)
    threading.Event().wait(1000)


@on_linux
@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("on_error", ["raise", "return"])
@pytest.mark.parametrize("function", [execs, closes_all])
def test_a_task_that_cuts_its_worker_off_is_lost_at_once(
    function, on_error, retries, ends_count
):
    def task(i):
        return function() if i == 3 else i

    parallel = make_parallel(on_error=on_error, retries=retries, timeout=500)
    tasks = [delayed(task)(i) for i in range(8)]
    if on_error == "raise":
        with pytest.raises(WorkerCrash) as caught:
            parallel(tasks)
        error = caught.value
    else:
        out = parallel(tasks)
        error = out[3].exception
        assert [i for i in out if not isinstance(i, TaskError)] == [0, 1, 2, 4, 5, 6, 7]
    assert (error.task_index, error.exitcode, error.attempts) == (3, None, 1 + retries)
    assert "memory" not in str(error)
    assert re.search(CUT_OFF, str(error))


@on_linux
def test_a_worker_that_is_slow_to_end_is_not_cut_off(monkeypatch):
    """Its pipe may be closed long before it has ended, on a busy machine."""
    monkeypatch.setattr(multiprocessing_ends, "GRACE_S", 0)
    for _ in range(10):
        with pytest.raises(WorkerCrash) as caught:
            make_parallel()([delayed(os._exit)(7)] * 2)
        assert caught.value.exitcode == 7


# ---- exit codes ----------------------------------------------------------------------


@pytest.fixture
def no_exitcodes(ends_count):
    """The system forgets how child processes end."""
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGCHLD, old)


@on_linux
@pytest.mark.parametrize("n_jobs", [2, 4])
def test_no_call_waits_for_exit_codes_that_never_come(n_jobs, no_exitcodes):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        parallel = Parallel(n_jobs=n_jobs, backend="multiprocessing")
        assert parallel(delayed(abs)(-i) for i in range(9)) == list(range(9))
    assert len(os.listdir("/proc/self/fd")) == before


@on_linux
@pytest.mark.parametrize("on_error", ["raise", "return"])
def test_a_crash_without_an_exit_code(on_error, no_exitcodes):
    parallel = make_parallel(on_error=on_error)
    tasks = [delayed(os._exit)(7)] * 2
    if on_error == "raise":
        with pytest.raises(WorkerCrash) as caught:
            parallel(tasks)
        error = caught.value
    else:
        error = parallel(tasks)[0].exception
    assert "which ended" in str(error)
    assert error.exitcode is None


@on_linux
def test_a_worker_that_is_cut_off_has_no_exit_code_to_be_known(no_exitcodes):
    with pytest.raises(WorkerCrash, match=CUT_OFF) as caught:
        make_parallel()([delayed(execs)()] * 2)
    assert caught.value.exitcode is None


@on_linux
def test_exit_codes_that_another_thread_has_fetched(run_script):
    """A program may wait for any child, as init does."""
    done = run_script(
        """
        import os, threading
        from cypar import Parallel, WorkerCrash, delayed
        from cypar.backends import multiprocessing_pool

        multiprocessing_pool.CLOSE_S = multiprocessing_pool.DEATH_S = 1000
        over = threading.Event()

        def fetch_all():
            while not over.wait(1e-4):
                try:
                    os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    pass

        threading.Thread(target=fetch_all).start()
        try:
            parallel = Parallel(n_jobs=2, backend="multiprocessing")
            for _ in range(10):
                assert parallel([delayed(abs)(-1)] * 3) == [1] * 3
            try:
                parallel([delayed(os._exit)(7)] * 2)
            except WorkerCrash:
                print("crash")
        finally:
            over.set()
        """
    )
    assert (done.stdout, done.stderr) == ("crash\n", "")


@on_linux
def test_only_who_ended_by_itself_has_an_exit_code(tmp_path):
    """Not who is killed lest it hold up the error."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def task(i):
        if i == 0:
            fifo.read_bytes()  # until the other worker is in its task
            os._exit(7)
        fifo.write_bytes(b"")
        threading.Event().wait(1000)

    with make_parallel(batch_size=1) as parallel:
        assert parallel([delayed(abs)(-1)] * 3) == [1] * 3
        (pool,) = multiprocessing_pool._live
        with pytest.raises(WorkerCrash):
            parallel(delayed(task)(i) for i in range(2))
    assert list(pool.exitcodes.values()) == [7]
