"""The 'multiprocessing' backend: start methods, deaths, errors, what is left behind."""

import contextlib
import importlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from operator import mul

import pytest

from cypar import Parallel, delayed
from cypar.backends import multiprocessing_stock as stock
from cypar.backends.multiprocessing import MultiprocessingBackend
from cypar.core.config_state import current
from cypar.core.errors import (
    CyparWarning,
    PoolStartError,
    RemoteError,
    TaskPicklingError,
    TaskTimeout,
    WorkerCrash,
)

START_METHODS = ["fork", "spawn", "forkserver"]
VARIABLES = ("CYPAR_START_METHOD", "JOBLIB_START_METHOD")

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="the workers' page needs POSIX memory"
)


@pytest.fixture(autouse=True)
def no_start_method(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def run(tasks, n_jobs=2, **options):
    """Run on the backend; returns what `Parallel` returns."""
    options.setdefault("backend", "multiprocessing")
    return Parallel(n_jobs=n_jobs, **options)(tasks)


def start_method():
    """The start method of the worker that runs this."""
    return type(multiprocessing.current_process()).__name__


def children():
    return {process.pid for process in multiprocessing.active_children()}


# ---- start methods -------------------------------------------------------------------


@pytest.mark.parametrize("method", START_METHODS)
def test_s16_each_start_method_returns_results_in_order(method, monkeypatch):
    monkeypatch.setenv("CYPAR_START_METHOD", method)

    assert run(delayed(mul)(i, i) for i in range(50)) == [i * i for i in range(50)]


def test_s16_fork_is_the_default():
    assert set(run([delayed(start_method)()] * 2)) == {"ForkProcess"}


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("method", START_METHODS)
def test_s20_the_environment_selects_the_start_method(variable, method, monkeypatch):
    monkeypatch.setenv(variable, method)

    names = run([delayed(start_method)()] * 2)

    assert {name.lower() for name in names} == {f"{method}process"}


def test_s20_cypar_variable_wins(monkeypatch):
    monkeypatch.setenv("CYPAR_START_METHOD", "fork")
    monkeypatch.setenv("JOBLIB_START_METHOD", "spawn")

    assert set(run([delayed(start_method)()] * 2)) == {"ForkProcess"}


@pytest.mark.parametrize("variable", VARIABLES)
def test_s20_unknown_start_method_lists_the_valid_ones(variable, monkeypatch):
    monkeypatch.setenv(variable, "knife")

    with pytest.raises(ValueError, match=f"{variable}='knife'.*'fork', 'spawn'"):
        run([delayed(abs)(1)])


@pytest.mark.parametrize("method", START_METHODS)
def test_p10_context_object_as_backend(method, monkeypatch):
    monkeypatch.setenv("CYPAR_START_METHOD", "fork")
    context = multiprocessing.get_context(method)

    names = run([delayed(start_method)()] * 2, backend=context)

    assert {name.lower() for name in names} == {f"{method}process"}


def test_p10_the_module_as_backend():
    assert run([delayed(abs)(-1)] * 3, backend=multiprocessing) == [1, 1, 1]


def test_s19_closures_and_lambdas_run():
    offset = 5

    assert run(delayed(lambda x: x + offset)(i) for i in range(3)) == [5, 6, 7]


@pytest.mark.slow
@pytest.mark.parametrize("method", START_METHODS)
def test_s19_functions_of_main_run(method, run_script):
    result = run_script(
        """
        from cypar import Parallel, delayed

        def double(x):
            return 2 * x

        if __name__ == "__main__":
            parallel = Parallel(n_jobs=2, backend="multiprocessing")
            print(parallel(delayed(double)(i) for i in range(4)))
        """,
        python_args=("-W", "error"),
        env={"CYPAR_START_METHOD": method},
    )

    assert result.stdout == "[0, 2, 4, 6]\n"
    assert result.stderr == ""


@pytest.mark.slow
def test_a_fork_beside_threads_does_not_warn(run_script):
    result = run_script(
        """
        import threading
        from cypar import Parallel, delayed

        end = threading.Event()
        thread = threading.Thread(target=end.wait, daemon=True)
        thread.start()
        for backend in ("threading", "multiprocessing", "multiprocessing"):
            print(Parallel(n_jobs=2, backend=backend)([delayed(abs)(-1)] * 3))
        end.set()
        thread.join()
        """,
        python_args=("-W", "error"),
    )

    assert result.stdout == "[1, 1, 1]\n" * 3
    assert result.stderr == ""


@pytest.mark.slow
def test_s18_spawned_script_without_guard_fails_with_advice(run_script):
    result = run_script(
        """
        from cypar import Parallel, delayed

        Parallel(n_jobs=2, backend="multiprocessing")([delayed(abs)(1)] * 4)
        """,
        env={"CYPAR_START_METHOD": "spawn"},
        returncode=1,
    )

    assert "PoolStartError" in result.stderr
    assert "if __name__ == '__main__':" in result.stderr


def test_an_edited_module_travels_as_it_is_loaded_here(tmp_path, monkeypatch):
    monkeypatch.setenv("CYPAR_START_METHOD", "spawn")
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "cypar_test_edited.py"
    file.write_text("def answer(i):\n    return 'old', i\n")
    module = importlib.import_module(file.stem)
    try:
        file.write_text("def answer(i):\n    return 'entirely new', i\n")

        results = run(delayed(module.answer)(i) for i in range(30))
    finally:
        del sys.modules[file.stem]

    assert results == [("old", i) for i in range(30)]


# ---- what workers are ----------------------------------------------------------------


def random_values(ready, meet):
    rendezvous(ready, meet)
    import random

    import numpy

    return random.random(), float(numpy.random.random())


def rendezvous(path, end):
    """Wait for the task that opens the other end of a FIFO."""
    with open(path, end):
        pass
    return os.getpid()


@pytest.fixture
def fifo(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return str(path)


def test_forked_workers_are_reseeded(fifo):
    numpy = pytest.importorskip("numpy")
    import random

    random.seed(0)
    numpy.random.seed(0)

    first, second = run(
        [delayed(random_values)(fifo, "r"), delayed(random_values)(fifo, "w")],
        batch_size=1,
    )

    parent = random.random(), float(numpy.random.random())
    for values in zip(first, second, parent, strict=True):
        assert len(set(values)) == 3


def test_tasks_that_wait_for_each_other_meet(fifo):
    """Fast tasks make batches grow; the two that meet must not share one."""

    def work(i):
        return rendezvous(fifo, "r" if i % 2 else "w") if i >= 100 else None

    pids = run(delayed(work)(i) for i in range(102))

    assert len(set(pids[-2:])) == 2


def test_tasks_have_the_next_nesting_level_and_thread_limits(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")

    def look():
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
        return current().nesting_level, [os.environ[name] for name in names]

    monkeypatch.setattr("cypar.backends.multiprocessing.cpu_count", lambda: 6)
    assert run([delayed(look)()])[0] == (1, ["3", "7"])
    limited = run([delayed(look)()], inner_max_num_threads=4)
    assert limited[0] == (1, ["4", "4"])


def test_tasks_may_use_parallel():
    def nested(i):
        return sum(Parallel(n_jobs=2)(delayed(mul)(i, j) for j in range(3)))

    assert run(delayed(nested)(i) for i in range(3)) == [0, 3, 6]


def in_daemonic_process(connection):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = run([delayed(abs)(-2)] * 3)
    connection.send((results, [entry.category for entry in caught]))
    connection.close()


def test_p53_a_daemonic_process_runs_serially_and_warns():
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
        process = context.Process(
            target=in_daemonic_process, args=(sender,), daemon=True
        )
        process.start()
    sender.close()

    assert receiver.recv() == ([2, 2, 2], [CyparWarning])

    process.join()
    process.close()
    receiver.close()


# ---- deaths --------------------------------------------------------------------------


def die(how, i, at):
    if i == at:
        os._exit(9) if how == "exit" else os.kill(os.getpid(), signal.SIGKILL)
    return i


@pytest.mark.parametrize("method", START_METHODS)
@pytest.mark.parametrize(("how", "exitcode"), [("exit", 9), ("kill", -9)])
def test_a_death_in_a_task_is_a_worker_crash(method, how, exitcode, monkeypatch):
    monkeypatch.setenv("CYPAR_START_METHOD", method)

    with pytest.raises(WorkerCrash) as caught:
        run(delayed(die)(how, i, 7) for i in range(20))

    assert caught.value.task_index == 7
    assert caught.value.function == "die"
    assert caught.value.exitcode == exitcode
    assert not children()
    assert run([delayed(abs)(-1)] * 3) == [1, 1, 1]


def test_one_thread_at_a_time_asks_for_an_exit_code():
    class Popen:
        """What a fork server says of a child can be read once."""

        both = threading.Barrier(2, timeout=0.1)
        answers = iter([-9])
        returncode = None

        def poll(self, flag=0):
            if self.returncode is None:
                with contextlib.suppress(threading.BrokenBarrierError):
                    self.both.wait()
                self.returncode = next(self.answers, 255)
            return self.returncode

    class Process:
        _popen = Popen()

    stock.guard_exitcode(Process)
    codes = []
    threads = [
        threading.Thread(target=lambda: codes.append(Process._popen.poll()))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [-9, -9]


def test_a_death_in_a_with_block_leaves_it_usable():
    with Parallel(n_jobs=2, backend="multiprocessing") as parallel:
        for how in ("exit", "kill"):
            with pytest.raises(WorkerCrash):
                parallel(delayed(die)(how, i, 3) for i in range(9))
            assert parallel(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]


def test_a_death_while_others_send_large_results_is_noticed():
    def work(i):
        return die("kill", i, 30) and b"x" * 300_000

    with pytest.raises(WorkerCrash):
        run(delayed(work)(i) for i in range(60))


def test_a_death_between_calls_is_repaired():
    with Parallel(n_jobs=2, backend="multiprocessing") as parallel:
        pid = parallel([delayed(os.getpid)()])[0]
        worker = next(p for p in multiprocessing.active_children() if p.pid == pid)
        os.kill(pid, signal.SIGKILL)
        multiprocessing.connection.wait([worker.sentinel])
        worker = None

        assert parallel(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]


def test_a_forked_grandchild_does_not_hide_a_death(fifo):
    def leave_a_child():
        if os.fork() == 0:
            signal.pause()
        os._exit(1)

    with pytest.raises(WorkerCrash):
        run([delayed(leave_a_child)()] * 2)


def test_a_worker_that_cannot_start_is_a_pool_start_error(monkeypatch):
    monkeypatch.setattr(
        "cypar.backends.multiprocessing_worker.initialize", lambda *args: os._exit(4)
    )

    with pytest.raises(PoolStartError, match="exit code 4"):
        run([delayed(abs)(1)] * 2)


# ---- errors --------------------------------------------------------------------------


class NeedsArguments(Exception):
    def __init__(self, code, detail):
        super().__init__(f"code {code}: {detail}")
        self.code = code


class KeepsALock(Exception):
    def __init__(self):
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class NeverLoads(Exception):
    def __reduce__(self):
        return int, ("not a number",)


def fail(i, make, *args):
    if i == 2:
        raise make(*args)


def test_an_exception_with_required_arguments_keeps_its_type():
    with pytest.raises(NeedsArguments, match="code 3: broken") as caught:
        run(delayed(fail)(i, NeedsArguments, 3, "broken") for i in range(5))

    assert caught.value.code == 3
    assert caught.value.task_index == 2


def test_an_exception_with_an_unpicklable_member_keeps_its_type():
    with pytest.raises(KeepsALock, match="holds a lock"):
        run(delayed(fail)(i, KeepsALock) for i in range(5))


def test_an_exception_that_never_loads_has_a_stand_in():
    with pytest.raises((NeverLoads, RemoteError)):
        run(delayed(fail)(i, NeverLoads) for i in range(5))


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_task_cannot_end_its_worker_by_an_exception(kind):
    with pytest.raises(kind):
        run(delayed(fail)(i, kind) for i in range(5))


def test_an_unpicklable_result_is_the_tasks_error():
    with pytest.raises((TypeError, pickle.PicklingError), match="lock"):
        run([delayed(threading.Lock)()] * 3)


def test_an_unpicklable_argument_names_task_and_argument():
    def tasks():
        yield delayed(abs)(1)
        yield delayed(mul)([threading.Lock()], 2)

    with pytest.raises(TaskPicklingError, match=r"task 1.* -> "):
        run(tasks())


def test_the_lowest_index_is_raised(fifo):
    def work(i):
        rendezvous(fifo, "r" if i else "w")
        raise ValueError(i)

    with pytest.raises(ValueError, match=r"^[01]$"):
        run((delayed(work)(i) for i in range(2)), batch_size=1)


def test_an_error_kills_tasks_that_still_run(fifo):
    def work(i):
        if i:
            raise ValueError(i)
        rendezvous(fifo, "r")  # for ever

    with pytest.raises(ValueError, match=r"^1$"):
        run((delayed(work)(i) for i in range(2)), batch_size=1)

    assert not children()


def test_an_error_of_the_iterator_is_raised():
    def tasks():
        yield delayed(abs)(1)
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        run(tasks())


def test_tasks_are_pickled_when_they_are_drawn():
    shared = []

    def tasks():
        for i in range(20):
            shared[:] = [i]
            yield delayed(sum)(shared)

    assert run(tasks()) == list(range(20))


def test_large_arguments_and_results_come_back():
    data = bytes(300_000)

    results = run(delayed(bytes.__add__)(data, b"1") for _ in range(20))

    assert results == [data + b"1"] * 20


# ---- timeout -------------------------------------------------------------------------


def test_a_task_that_takes_too_long_is_named(fifo):
    def work(i):
        return rendezvous(fifo, "r") if i == 1 else i  # for ever

    with pytest.raises(TaskTimeout, match="task 1 ") as caught:
        run((delayed(work)(i) for i in range(4)), timeout=0.1)

    assert isinstance(caught.value, multiprocessing.TimeoutError)
    assert caught.value.task_index == 1
    assert not children()


def test_waiting_tasks_do_not_time_out():
    """Ten tasks on two workers take longer than the timeout, each one less."""

    def work(i):
        threading.Event().wait(0.1)
        return i

    assert run((delayed(work)(i) for i in range(10)), timeout=0.4) == list(range(10))


# ---- batches -------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, "auto"])
@pytest.mark.parametrize("pre_dispatch", ["all", 1, "2 * n_jobs"])
def test_every_batch_size_and_window_gives_all_results(batch_size, pre_dispatch):
    tasks = (delayed(mul)(i, 2) for i in range(300))

    results = run(tasks, batch_size=batch_size, pre_dispatch=pre_dispatch)

    assert results == list(range(0, 600, 2))


def test_an_explicit_window_is_never_exceeded():
    drawn = []

    def tasks():
        for i in range(12):
            drawn.append(i)
            yield delayed(abs)(i)

    parallel = Parallel(
        n_jobs=2,
        backend="multiprocessing",
        pre_dispatch=3,
        batch_size=1,
        return_as="generator",
    )
    excess = [len(drawn) - value for value in parallel(tasks())]

    assert drawn == list(range(12))
    assert len(excess) == 12


# ---- with-blocks and generators ------------------------------------------------------


def test_a_with_block_keeps_its_processes():
    def pids(parallel):
        return set(parallel(delayed(os.getpid)() for _ in range(50)))

    with Parallel(n_jobs=2, backend="multiprocessing") as parallel:
        before = pids(parallel)
        kept = children()
        after = pids(parallel)
        assert before <= kept
        assert after <= kept == children()
    assert not children()


def test_an_error_in_a_with_block_leaves_it_usable():
    with Parallel(n_jobs=2, backend="multiprocessing") as parallel:
        with pytest.raises(ValueError, match="2"):
            parallel(delayed(fail)(i, ValueError, 2) for i in range(5))
        assert parallel(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]


def test_two_threads_have_pools_of_their_own():
    results = {}

    def loop(n):
        with Parallel(n_jobs=2, backend="multiprocessing") as parallel:
            results[n] = [parallel(delayed(mul)(n, i) for i in range(9))] * 3

    threads = [threading.Thread(target=loop, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == {n: [[n * i for i in range(9)]] * 3 for n in range(3)}


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_generators_give_all_results(return_as):
    results = run((delayed(abs)(-i) for i in range(500)), return_as=return_as)

    assert sorted(results) == list(range(500))


def test_a_generator_gives_results_before_the_end(fifo):
    tasks = [delayed(abs)(-1), delayed(rendezvous)(fifo, "r")]
    results = run(tasks, return_as="generator", batch_size=1)

    assert next(results) == 1
    with open(fifo, "w"):
        pass
    assert len(list(results)) == 1


def test_a_closed_generator_leaves_nothing(fifo):
    tasks = [delayed(abs)(-1), *[delayed(rendezvous)(fifo, "r")] * 5]
    results = run(tasks, return_as="generator")
    assert next(results) == 1

    results.close()  # the leak check looks for processes, threads and descriptors


def test_a_generator_may_outlive_its_with_block(fifo):
    with Parallel(
        n_jobs=2, backend="multiprocessing", return_as="generator"
    ) as parallel:
        results = parallel([delayed(rendezvous)(fifo, "r"), delayed(abs)(-2)])
    with open(fifo, "w"):
        pass

    assert list(results)[1] == 2


def test_a_crash_reaches_the_consumer_of_a_generator():
    results = run((delayed(die)("kill", i, 3) for i in range(9)), return_as="generator")

    with pytest.raises(WorkerCrash, match="task 3 "):
        list(results)


# ---- Ctrl-C and what is left behind --------------------------------------------------

SLEEPER = """
import os, sys, time
from cypar import Parallel, delayed

def work(i):
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(60)

if __name__ == "__main__":
    Parallel(n_jobs=2, backend="multiprocessing")(delayed(work)(i) for i in range(8))
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", START_METHODS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_p55_a_signal_to_the_parent_ends_all(method, number, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SLEEPER))
    path = os.pathsep.join(filter(None, sys.path))
    env = {**os.environ, "CYPAR_START_METHOD": method, "PYTHONPATH": path}
    parent = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
    )
    with parent:
        for _ in range(2):
            assert int(parent.stdout.readline()) > 0
        parent.send_signal(number)
        # end of file: nobody holds the pipes, so all workers are gone
        _, stderr = parent.communicate(timeout=20)
    if number == signal.SIGINT:
        assert stderr.strip().endswith(b"KeyboardInterrupt")
        assert stderr.count(b"Traceback") == 1


def test_ctrl_c_raises_in_the_caller_and_the_next_call_works(fifo):
    def interrupt(i):
        if i == 0:
            os.kill(os.getppid(), signal.SIGINT)
        rendezvous(fifo, "r")  # for ever

    with pytest.raises(KeyboardInterrupt):
        run((delayed(interrupt)(i) for i in range(8)), batch_size=1)

    assert not children()
    assert run([delayed(abs)(-3)] * 2) == [3, 3]


def test_no_descriptors_left_is_a_pool_start_error(run_script):
    result = run_script(
        """
        import os, resource
        from cypar import Parallel, delayed

        def loop(n_jobs):
            parallel = Parallel(n_jobs=n_jobs, backend="multiprocessing")
            return parallel(delayed(abs)(-i) for i in range(3))

        assert loop(2) == [0, 1, 2]
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        before = os.listdir("/proc/self/fd")
        try:
            loop(16)
        except Exception as error:
            print(type(error).__name__)
        assert os.listdir("/proc/self/fd") == before
        print(loop(2))
        """,
    )

    assert result.stdout == "PoolStartError\n[0, 1, 2]\n"


def test_a_backend_object_can_be_made_and_used():
    assert run([delayed(abs)(-3)] * 2, backend=MultiprocessingBackend()) == [3, 3]
