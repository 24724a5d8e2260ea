"""The 'multiprocessing' backend at the worst moments; found by tests/faults."""

import inspect
import os
import signal
import threading
import time

import pytest

import cypar.parallel
from cypar import Parallel, WorkerCrash, delayed
from cypar.backends import multiprocessing_pool
from cypar.backends import multiprocessing_stock as stock
from cypar.core import import_gate

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="the workers' page needs POSIX memory"
)


def make_parallel(**options):
    return Parallel(n_jobs=2, backend="multiprocessing", **options)


def test_all_workers_die_while_tasks_wait_in_the_pipe():
    """The Pool fails to write before anybody has seen the deaths."""

    def leave(data):
        os._exit(7)

    for _ in range(5):
        with pytest.raises(WorkerCrash) as caught:
            make_parallel(batch_size=1, pre_dispatch="all")(
                delayed(leave)(os.urandom(500_000)) for _ in range(6)
            )
        assert caught.value.exitcode == 7


def test_forked_child_does_not_wait_for_a_lock_of_a_thread_of_the_parent():
    """A thread of the Pool may be asking for an exit code while the parent forks."""
    with make_parallel() as parallel:
        assert parallel([delayed(abs)(-1)] * 3) == [1] * 3
        (pool,) = multiprocessing_pool._live
        process = pool._context.processes[0]
        lock = inspect.getclosurevars(process._popen.poll).nonlocals["lock"]
        with lock:
            child = os.fork()
            if child == 0:
                signal.alarm(10)
                process._popen.poll()
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert parallel([delayed(abs)(-1)] * 3) == [1] * 3


@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_interrupt_taken_by_another_thread_while_the_pool_starts(
    return_as, monkeypatch
):
    """Then no mask helps; half a Pool would stay behind."""
    original = stock.SealedContext.Process

    def take_interrupt():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.raise_signal(signal.SIGINT)

    def interrupt_and_start(self, *args, **kwargs):
        thread = threading.Thread(target=take_interrupt)
        thread.start()
        thread.join()
        monkeypatch.undo()
        return original(self, *args, **kwargs)

    parallel = make_parallel(return_as=return_as)
    monkeypatch.setattr(stock.SealedContext, "Process", interrupt_and_start)
    with pytest.raises(KeyboardInterrupt):
        list(parallel(delayed(abs)(-i) for i in range(9)))
    assert list(parallel(delayed(abs)(-i) for i in range(9))) == list(range(9))


@pytest.mark.parametrize("block", [False, True])
def test_interrupt_between_the_start_of_the_pool_and_of_the_call(block, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    parallel = make_parallel(return_as="generator")
    if block:
        parallel.__enter__()
    with monkeypatch.context() as patched:
        patched.setattr(cypar.parallel, "ResultGenerator", interrupt)
        with pytest.raises(KeyboardInterrupt):
            parallel(delayed(abs)(-i) for i in range(9))
    assert list(parallel(delayed(abs)(-i) for i in range(9))) == list(range(9))
    if block:
        parallel.__exit__(None, None, None)


def test_interrupt_just_after_the_start_of_the_pool(monkeypatch):
    """The leak check sees its workers, if nobody has it."""
    start = multiprocessing_pool.WorkerPool.start

    def start_and_interrupt(pool, *args):
        start(pool, *args)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(multiprocessing_pool.WorkerPool, "start", start_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_parallel()(delayed(abs)(-i) for i in range(9))
    assert not multiprocessing_pool._live


@pytest.mark.parametrize(
    ("place", "moment"),
    [
        (multiprocessing_pool.WorkerPool, "_kill"),
        (multiprocessing_pool.Ends, "exitcodes"),
        (stock, "dismantle"),
    ],
)
@pytest.mark.parametrize("times", [1, 3])
def test_interrupts_while_a_pool_is_taken_apart(times, place, moment, monkeypatch):
    """Half a Pool would wait for its dead workers at the interpreter's end."""
    original = getattr(place, moment)

    def interrupt(*args):
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        return original(*args)

    def fail():
        raise ValueError("task")

    with monkeypatch.context() as patched:
        patched.setattr(place, moment, interrupt)
        with pytest.raises(KeyboardInterrupt):
            make_parallel()([delayed(fail)()] * 3)
    assert not multiprocessing_pool._live


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_handler_that_raises_while_a_pool_is_taken_apart(moment, monkeypatch):
    """Of another signal, as a time limit's; what is left is ended all the same."""
    dismantle = stock.dismantle

    def interrupted(*args):
        monkeypatch.undo()
        if moment == "after":
            dismantle(*args)
        raise TimeoutError("of the program")

    parallel = make_parallel()
    monkeypatch.setattr(stock, "dismantle", interrupted)
    with pytest.raises(TimeoutError):
        parallel([delayed(abs)(-1)] * 3)
    assert not multiprocessing_pool._live
    assert parallel([delayed(abs)(-1)] * 3) == [1] * 3


def test_a_lock_that_a_thread_of_the_pool_holds_is_not_taken_away(monkeypatch):
    """Its error when it gives the lock back would be shown."""
    monkeypatch.setattr(stock, "LOCK_S", 10.0)
    begun = threading.Event()
    with make_parallel() as parallel:
        assert parallel([delayed(abs)(-1)] * 3) == [1] * 3
        (pool,) = multiprocessing_pool._live
        inner = pool._pool
        results = inner._outqueue._writer
        send = results.send_bytes

        def send_slowly(data):
            begun.set()
            while not inner._inqueue._reader.closed:
                time.sleep(0.001)  # until the Pool is taken apart
            send(data)

        monkeypatch.setattr(results, "send_bytes", send_slowly)
        inner._taskqueue.put(None)  # the task handler sends its last message
        assert begun.wait(10)
        pool.kill()


def test_the_pool_has_no_finalizer_of_its_own():
    """At the interpreter's end it would wait for workers that are dead."""
    with make_parallel() as parallel:
        assert parallel([delayed(abs)(-1)] * 3) == [1] * 3
        (pool,) = multiprocessing_pool._live
        assert not pool._pool._terminate.still_active()


def test_worker_says_nothing_when_its_answer_comes_too_late(capfd):
    def answer():
        raise BrokenPipeError

    child = os.fork()
    if child == 0:
        try:
            stock.run_quietly(answer)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert capfd.readouterr() == ("", "")


def test_fork_waits_for_the_import_of_another_thread(tmp_path, monkeypatch):
    """In the worker it would never end."""
    (tmp_path / "slowly_imported.py").write_text(
        "import gate\ngate.entered.set()\ngate.leave.wait(10)\nvalue = 3\n"
    )
    (tmp_path / "gate.py").write_text(
        "import threading\nentered, leave = threading.Event(), threading.Event()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import gate

    def task():
        import slowly_imported

        return slowly_imported.value

    other = threading.Thread(target=task)
    other.start()
    assert gate.entered.wait(10)
    original = import_gate.imports_of_others

    def let_go_and_look():
        gate.leave.set()
        return original()

    monkeypatch.setattr(import_gate, "imports_of_others", let_go_and_look)
    assert make_parallel(timeout=10)(delayed(task)() for _ in range(3)) == [3] * 3
    other.join()


def test_start_that_fails_anywhere_leaves_no_descriptor(run_script):
    """A process of the standard library leaves some when its start fails half way."""
    done = run_script(
        """
        import gc, os, resource
        from cypar import Parallel, PoolStartError, delayed

        def open_descriptors():
            gc.collect()
            return len(os.listdir("/proc/self/fd"))

        parallel = Parallel(n_jobs=3, backend="multiprocessing")
        assert parallel(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        before = open_descriptors()
        failures = 0
        for free in range(1, 60):
            resource.setrlimit(resource.RLIMIT_NOFILE, (before + free, hard))
            try:
                assert parallel(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
            except OSError:
                failures += 1
            except PoolStartError:
                failures += 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert open_descriptors() == before, free
        assert 0 < failures < 59
        print("done")
        """
    )
    assert done.stdout == "done\n"
