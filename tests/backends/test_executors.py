"""Executors of concurrent.futures, and what looks like one, as backends."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures.process import BrokenProcessPool
from operator import mul

import pytest

from cypar import Parallel, delayed, parallel_backend
from cypar.core.config_state import current
from cypar.core.errors import RemoteError, TaskPicklingError, TaskTimeout, WorkerCrash

MODES = ["list", "generator", "generator_unordered"]
DEADLINE_S = 10.0


class InCaller(Executor):
    """Runs what is submitted at once."""

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        future.set_result(function(*args, **kwargs))
        return future


class Unstarted(Executor):
    """Starts nothing."""

    def __init__(self):
        self.futures = []
        self.submitted = threading.Event()

    def submit(self, function, /, *args, **kwargs):
        self.futures.append(Future())
        self.submitted.set()
        return self.futures[-1]


@pytest.fixture
def threads():
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture
def processes():
    # not fork, which Python 3.12 warns of in a process with threads
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(2, mp_context=context)
    yield executor
    executor.shutdown()
    del executor


def fail(i, at):
    if i == at:
        raise ZeroDivisionError(i)
    return i


def die(i, at):
    if i == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return i


def squares(n):
    return (delayed(mul)(i, i) for i in range(n))


def run(executor, tasks, **options):
    return Parallel(backend=executor, **options)(tasks)


# ---- threads and other executors in this process -------------------------------------


@pytest.mark.parametrize("return_as", MODES)
def test_all_results_in_all_modes(threads, return_as):
    results = list(run(threads, squares(300), return_as=return_as))
    if return_as == "generator_unordered":
        results.sort()
    assert results == [i * i for i in range(300)]


def test_any_executor_will_do():
    assert run(InCaller(), squares(9)) == [i * i for i in range(9)]
    with pytest.raises(ZeroDivisionError):
        run(InCaller(), (delayed(fail)(i, 3) for i in range(9)))


@pytest.mark.parametrize(("asked", "effective"), [(None, 2), (-1, 2), (5, 5), (-2, 1)])
def test_unset_n_jobs_means_the_executors_own_size(threads, asked, effective):
    parallel = Parallel(n_jobs=asked, backend=threads)
    assert parallel._backend.effective_n_jobs(parallel.n_jobs) == effective


def test_an_executor_without_a_size_has_that_of_the_machine(monkeypatch):
    monkeypatch.setattr("cypar.backends.executors.cpu_count", lambda: 7)
    backend = Parallel(backend=InCaller())._backend
    assert backend.effective_n_jobs(-1) == 7
    assert backend.effective_n_jobs(-3) == 5


def test_a_context_may_name_an_executor(threads):
    with parallel_backend(threads):
        assert Parallel()(squares(3)) == [0, 1, 4]


def test_tasks_on_threads_share_the_callers_objects(threads):
    lock = threading.Lock()
    assert run(threads, [delayed(id)(lock)] * 3) == [id(lock)] * 3
    assert run(threads, [delayed(id)(lock)] * 3, require="sharedmem") == [id(lock)] * 3


def level():
    return current().nesting_level, Parallel(n_jobs=2)._backend.name


def test_tasks_have_the_next_nesting_level(threads):
    assert run(threads, [delayed(level)()] * 3) == [(1, "threading")] * 3


def test_n_jobs_batches_run_at_once(threads):
    meeting = threading.Barrier(2)
    run(threads, [delayed(meeting.wait)(DEADLINE_S)] * 2)


def test_an_error_tells_its_task_and_cancels_the_rest():
    end = threading.Event()
    started = []

    def work(i):
        started.append(i)
        if i == 0:
            raise KeyError(i)
        end.wait(DEADLINE_S)

    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(KeyError) as caught:
            run(executor, (delayed(work)(i) for i in range(50)), pre_dispatch="all")
        end.set()
    assert caught.value.task_index == 0
    assert len(started) <= 2


def test_a_batch_size_is_honoured(threads):
    idents = run(
        threads, (delayed(threading.get_ident)() for _ in range(8)), batch_size=4
    )
    assert len(set(idents[:4])) == len(set(idents[4:])) == 1


def test_a_task_that_runs_too_long(threads):
    end = threading.Event()
    tasks = [delayed(end.wait)(DEADLINE_S) for _ in range(4)]
    with pytest.raises(TaskTimeout) as caught:
        run(threads, tasks, timeout=0.1)
    end.set()
    assert caught.value.task_index in (0, 1)


def test_tasks_that_wait_for_a_thread_do_not_time_out(threads):
    tick = threading.Event()
    tasks = [delayed(tick.wait)(0.1) for _ in range(10)]
    assert run(threads, tasks, n_jobs=8, timeout=0.4) == [False] * 10


def test_an_executor_that_was_shut_down_is_an_error(threads):
    threads.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        run(threads, squares(3))


def test_a_task_that_somebody_cancels_is_an_error():
    executor = Unstarted()
    results = run(executor, squares(3), return_as="generator", n_jobs=2)
    executor.submitted.wait(DEADLINE_S)  # in the thread of the generator
    executor.futures[0].cancel()
    with pytest.raises(CancelledError):
        list(results)
    assert all(future.cancelled() for future in executor.futures)


def test_a_closed_generator_cancels_what_has_not_begun():
    executor = Unstarted()
    results = run(executor, squares(9), return_as="generator", n_jobs=2)
    executor.submitted.wait(DEADLINE_S)
    results.close()
    assert all(future.cancelled() for future in executor.futures)


def test_the_executor_stays_the_users(threads):
    with Parallel(backend=threads) as parallel:
        assert parallel(squares(3)) == [0, 1, 4]
    assert threads.submit(abs, -1).result() == 1


# ---- processes -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("return_as", MODES)
def test_processes(processes, return_as):
    results = list(run(processes, squares(50), return_as=return_as))
    if return_as == "generator_unordered":
        results.sort()
    assert results == [i * i for i in range(50)]


@pytest.mark.slow
def test_what_processes_need(processes):
    offset = 5
    assert run(processes, [delayed(lambda x: x + offset)(1)] * 2) == [6, 6]
    assert run(processes, [delayed(level)()]) == [(1, "threading")]
    with pytest.raises(ZeroDivisionError) as caught:
        run(processes, (delayed(fail)(i, 3) for i in range(9)))
    assert caught.value.task_index == 3
    assert "fail(i=3, at=3)" in str(caught.value.__cause__)


@pytest.mark.slow
def test_tasks_are_as_they_were_when_drawn(processes):
    shared = []

    def tasks():
        for i in range(20):
            shared[:] = [i]
            yield delayed(sum)(shared)

    assert run(processes, tasks(), pre_dispatch="all") == list(range(20))


@pytest.mark.slow
def test_what_cannot_be_pickled_is_named(processes):
    with pytest.raises(TaskPicklingError, match=r"task 1.* -> \[0\]"):
        run(processes, (delayed(len)(arg) for arg in ([1], [threading.Lock()])))
    with pytest.raises(TypeError, match="lock"):  # a result
        run(processes, [delayed(abs)(-1), delayed(threading.Lock)()])


class NeverLoads(Exception):
    def __reduce__(self):
        return int, ("not a number",)


@pytest.mark.slow
def test_exceptions_and_results_that_cannot_be_loaded_break_nothing(processes):
    class Poison:
        def __reduce__(self):
            return int, ("not a number",)

    def raise_it():
        raise NeverLoads

    with pytest.raises((NeverLoads, RemoteError)) as caught:
        run(processes, [delayed(raise_it)()])
    assert caught.value.task_index == 0
    for tasks in ([delayed(Poison)()], [delayed(id)(Poison())]):
        with pytest.raises(ValueError, match="invalid literal"):
            run(processes, tasks)
    assert run(processes, squares(3)) == [0, 1, 4]


@pytest.mark.slow
@pytest.mark.parametrize("return_as", MODES)
def test_a_killed_worker_names_the_tasks_in_flight(processes, return_as):
    tasks = (delayed(die)(i, 5) for i in range(20))
    with pytest.raises(WorkerCrash, match=r"had .*5.* of this call") as caught:
        list(run(processes, tasks, return_as=return_as))
    assert isinstance(caught.value.__cause__, BrokenProcessPool)
    with pytest.raises(WorkerCrash, match="it is broken, make a new one"):
        list(run(processes, squares(3), return_as=return_as))
