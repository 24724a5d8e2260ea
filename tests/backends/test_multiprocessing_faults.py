"""The 'multiprocessing' backend goes on with a new Pool after a worker was lost."""

import os
import signal
import threading
import time

import pytest

from cypar import NoProgressError, Parallel, TaskError, WorkerCrash, delayed
from cypar.backends import multiprocessing_pool, stall
from cypar.backends import multiprocessing_stock as stock
from cypar.backends.multiprocessing_pool import WorkerPool
from cypar.backends.multiprocessing_worker import _Server

MODES = ("list", "generator", "generator_unordered")


def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)


def run(task, n, **options):
    return Parallel(n_jobs=2, backend="multiprocessing", **options)(
        delayed(task)(i) for i in range(n)
    )


@pytest.fixture
def log(tmp_path):
    """Return a function: log(i) notes that i ran, log() returns what did."""
    path = str(tmp_path / "log")

    def log(i=None):
        if i is None:
            with open(path, encoding="ascii") as file:
                return sorted(map(int, file))
        with open(path, "ab", buffering=0) as file:
            file.write(b"%d\n" % i)
        return None

    return log


@pytest.fixture
def pools(monkeypatch):
    """Return a list of the pools that the test has started."""
    started = []
    start = WorkerPool.start

    def note(pool, *args):
        started.append(pool)
        return start(pool, *args)

    monkeypatch.setattr(WorkerPool, "start", note)
    return started


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch_size", [1, 20, "auto"])
def test_a_crash_costs_one_task(log, mode, batch_size):
    def task(i):
        log(i)
        if i in (20, 60):
            kill_me()
        return i

    options = {"on_error": "return", "return_as": mode, "batch_size": batch_size}
    out = list(run(task, 100, **options))
    errors = sorted(
        (r for r in out if isinstance(r, TaskError)), key=lambda error: error.index
    )
    assert [(e.index, e.kind, e.exception.exitcode) for e in errors] == [
        (20, "crash", -signal.SIGKILL),
        (60, "crash", -signal.SIGKILL),
    ]
    assert errors[0].arguments == "i=20"
    good = [r for r in out if not isinstance(r, TaskError)]
    assert sorted(good) == [i for i in range(100) if i not in (20, 60)]
    assert log() == list(range(100))


def test_large_results_of_a_batch_are_not_lost_with_its_worker(log):
    """They come with the batch's end, so the batch ends with each of them."""

    def task(i):
        log(i)
        if i == 15:
            kill_me()
        return bytes([i]) * 20_000

    out = run(task, 40, on_error="return", batch_size=10)
    assert out[15].kind == "crash"
    assert all(out[i] == bytes([i]) * 20_000 for i in range(40) if i != 15)
    assert log() == list(range(40))


@pytest.mark.parametrize("on_error", ["raise", "return"])
def test_retries(log, on_error):
    def task(i):
        log(i)
        if i == 5 and log().count(5) < 3:
            kill_me()
        return i

    assert run(task, 12, retries=2, on_error=on_error) == list(range(12))
    assert log() == sorted([*range(12), 5, 5])


def test_attempts_are_told(log):
    def task(i):
        log(i)
        if i == 5:
            kill_me()
        return i

    with pytest.raises(WorkerCrash) as caught:
        run(task, 12, retries=1)
    assert (caught.value.task_index, caught.value.attempts) == (5, 2)
    assert log().count(5) == 2
    assert all(i == value for i, value in caught.value.completed.items())


def test_the_block_goes_on_with_the_new_pool():
    def task(i):
        if i == 3:
            kill_me()
        return os.getpid()

    with Parallel(n_jobs=2, backend="multiprocessing", on_error="return") as parallel:
        out = parallel(delayed(task)(i) for i in range(8))
        assert isinstance(out[3], TaskError)
        pids = set(parallel(delayed(os.getpid)() for _ in range(20)))
    assert len(pids) <= 2


def test_workers_that_die_before_any_task_end_the_call(capfd):
    class Bomb:
        def __reduce__(self):
            return os._exit, (5,)

    bomb = Bomb()

    def task(i):
        return bomb

    with pytest.raises(WorkerCrash, match="between two tasks"):
        run(task, 4, on_error="return")


def test_a_lost_message_becomes_an_error(monkeypatch):
    submit = WorkerPool.submit

    def lose(self, ticket, batch, payload):
        if batch.tasks[0][0] != 2:
            submit(self, ticket, batch, payload)

    monkeypatch.setattr(WorkerPool, "submit", lose)
    monkeypatch.setattr(stall, "LIMIT_S", 0.3)
    monkeypatch.setattr(stall, "CHECK_S", 0.05)
    with pytest.raises(NoProgressError, match="8 were drawn and only 7") as caught:
        run(abs, 8, batch_size=1)
    assert caught.value.completed == {i: i for i in range(8) if i != 2}


@pytest.mark.parametrize("where", ["task", "load"])
def test_what_takes_long_is_no_hang(monkeypatch, where):
    class Slow:
        def __reduce__(self):
            return time.sleep, (0.8,)

    slow = Slow()

    def task(i):
        if i == 2 and where == "task":
            time.sleep(0.8)
        return i, slow if where == "load" else None

    monkeypatch.setattr(stall, "LIMIT_S", 0.3)
    monkeypatch.setattr(stall, "CHECK_S", 0.05)
    assert [i for i, _ in run(task, 4, batch_size=1)] == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [SystemExit, ValueError])
def test_a_batch_that_breaks_off_between_tasks_is_finished(log, monkeypatch, error):
    """As when a signal's handler that a task has left behind raises."""

    def make_flush(server, page):
        def flush():  # the worker calls it between two slow tasks
            if not broken:
                broken.append(True)
                raise error("between two tasks")

        broken = []
        return flush

    def task(i):
        log(i)
        time.sleep(0.003)
        return i

    monkeypatch.setattr(_Server, "make_flush", make_flush)
    assert run(task, 30, batch_size=10, on_error="return") == list(range(30))
    assert log() == list(range(30))


def test_who_kills_a_pool_as_well_waits_for_its_end(pools, monkeypatch, in_threads):
    """At the interpreter's end Python's own handler must not meet half a Pool."""
    order, dismantle = [], stock.dismantle
    begun, go_on = threading.Event(), threading.Event()

    def slowly(*args):
        begun.set()
        go_on.wait(10)
        dismantle(*args)
        order.append("dismantled")

    def first():
        pools[0].kill()

    def second():
        begun.wait(10)
        threading.Timer(0.05, go_on.set).start()
        pools[0].kill()
        order.append("second")

    with Parallel(n_jobs=2, backend="multiprocessing") as parallel:
        assert parallel(delayed(abs)(-i) for i in range(4)) == [0, 1, 2, 3]
        monkeypatch.setattr(stock, "dismantle", slowly)
        in_threads(first, second)
    assert order == ["dismantled", "second"]


def test_a_worker_that_died_between_two_calls_costs_nothing(pools, monkeypatch):
    """Its end can be seen late, when the next call has handed out tasks."""
    with Parallel(n_jobs=2, backend="multiprocessing") as parallel:
        for _ in range(3):
            assert parallel(delayed(abs)(-i) for i in range(9)) == list(range(9))
            monkeypatch.setattr(WorkerPool, "is_usable", lambda pool: True)
            while len(pools[-1].ready) < 2:
                pools[-1].wait(100)
            for pid in pools[-1].pids():
                os.kill(pid, signal.SIGKILL)
    assert len(pools) == 3


def test_a_worker_that_dies_with_a_lock_of_the_pool_leaves_nothing(pools, monkeypatch):
    """The leak check sees the Pool's thread, if that still waits for the lock."""
    monkeypatch.setattr(multiprocessing_pool, "CLOSE_S", 0.1)
    with Parallel(n_jobs=2, backend="multiprocessing") as parallel:
        assert parallel(delayed(abs)(-i) for i in range(9)) == list(range(9))
        pool = pools[0]._pool
        deadline = time.monotonic() + 10
        while pool._cache and time.monotonic() < deadline:
            time.sleep(0.001)  # until both workers have answered
        # of the queue of results: the Pool's thread waits for it at the block's end
        pool._outqueue._wlock.acquire()


def test_a_dead_worker_is_news_only_once(pools):
    """While a Pool is left, the call waits for the tasks of the other workers."""
    with Parallel(n_jobs=2, backend="multiprocessing") as parallel:
        assert parallel(delayed(abs)(-i) for i in range(9)) == list(range(9))
        (pool,) = pools
        pid = pool.pids()[0]
        os.kill(pid, signal.SIGKILL)
        assert pool.exitcode_of(pid) == -signal.SIGKILL
        deadline = time.monotonic() + 10
        while pool.poll.poll(0) and time.monotonic() < deadline:
            pool.wait(0)
        assert pool.dead == [pid]
        assert not pool.poll.poll(0)


@pytest.mark.parametrize("retries", [0, 1])
def test_a_worker_that_dies_with_a_large_result_loses_that_only(
    log, tmp_path, monkeypatch, retries
):
    """It has ended its batch early, to bring the result; the rest has not begun."""
    dead = tmp_path / "dead"
    keep = _Server.keep_large

    def keep_and_die(server, *result):
        try:
            dead.touch(exist_ok=False)  # first: then the other worker may have the rest
            is_first = True
        except FileExistsError:
            is_first = False
        keep(server, *result)
        if is_first:
            kill_me()

    def task(i):
        log(i)
        return bytes(100_000)

    monkeypatch.setattr(_Server, "keep_large", keep_and_die)
    out = run(task, 5, batch_size=5, on_error="return", retries=retries)
    first, *rest = out
    assert rest == [bytes(100_000)] * 4
    if retries:
        assert first == bytes(100_000)
        assert log() == [0, 0, 1, 2, 3, 4]
    else:
        assert (first.kind, first.index) == ("crash", 0)
        assert log() == [0, 1, 2, 3, 4]
