"""S64: the backend objects of joblib itself, and classes derived from its bases."""

import os
import threading
from multiprocessing.pool import ThreadPool
from operator import mul

import pytest

from cypar import Parallel, delayed, parallel_backend
from cypar.core.config_state import current
from cypar.core.errors import TaskPicklingError

backends = pytest.importorskip("joblib._parallel_backends")

MODES = ["list", "generator", "generator_unordered"]
# loky keeps processes, semaphores and a folder until exit: see test_loky
NAMES = ["ThreadingBackend", "SequentialBackend", "MultiprocessingBackend"]

# joblib forks beside its own threads
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


def make(name):
    return getattr(backends, name)(nesting_level=0)


def fail(i):
    if i == 3:
        raise ZeroDivisionError(i)
    return i


def squares(n):
    return (delayed(mul)(i, i) for i in range(n))


def level():
    return current().nesting_level, Parallel(n_jobs=2)._backend.name


@pytest.mark.parametrize("return_as", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_all_results_in_all_modes(name, return_as):
    parallel = Parallel(n_jobs=2, backend=make(name), return_as=return_as)
    results = list(parallel(squares(50)))
    if return_as == "generator_unordered":
        results.sort()
    assert results == [i * i for i in range(50)]


@pytest.mark.parametrize("name", NAMES)
def test_errors_tell_their_task_and_the_block_goes_on(name):
    with Parallel(n_jobs=2, backend=make(name)) as parallel:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError) as caught:
                parallel(delayed(fail)(i) for i in range(9))
            assert caught.value.task_index == 3
            assert "fail(i=3)" in str(caught.value.__cause__)
            assert parallel(squares(3)) == [0, 1, 4]


def test_lambdas_travel_over_multiprocessing():
    parallel = Parallel(n_jobs=2, backend=make("MultiprocessingBackend"))
    assert parallel(delayed(lambda x: -x)(i) for i in range(3)) == [0, -1, -2]


def test_what_cannot_be_pickled_is_named():
    parallel = Parallel(n_jobs=2, backend=make("MultiprocessingBackend"))
    with pytest.raises(TaskPicklingError, match=r"task 1.* -> \[0\]"):
        parallel(delayed(len)(arg) for arg in ([1], [threading.Lock()]))


@pytest.mark.parametrize("name", ["ThreadingBackend", "MultiprocessingBackend"])
def test_tasks_have_the_next_nesting_level(name):
    results = Parallel(n_jobs=2, backend=make(name))([delayed(level)()] * 2)
    assert results == [(1, "threading")] * 2


def test_a_sequential_backend_runs_in_the_caller():
    parallel = Parallel(n_jobs=2, backend=make("SequentialBackend"))
    assert parallel([delayed(level)(), delayed(os.getpid)()]) == [
        (0, "processes"),
        os.getpid(),
    ]


@pytest.mark.parametrize("name", [*NAMES, "LokyBackend"])
def test_one_job_falls_back_to_a_loop(name):
    with parallel_backend(make(name), n_jobs=1):
        assert Parallel()(delayed(os.getpid)() for _ in range(3)) == [os.getpid()] * 3


@pytest.mark.parametrize("nested", ["SequentialBackend", "ThreadingBackend"])
def test_what_joblib_nests_is_what_cypar_calls_so(nested):
    class Backend(backends.ThreadingBackend):
        def get_nested_backend(self):
            return make(nested), None

    results = Parallel(n_jobs=2, backend=Backend(nesting_level=0))([delayed(level)()])
    assert results == [(1, nested.removesuffix("Backend").lower())]


def test_a_class_that_only_has_apply_async():
    class Backend(backends.AutoBatchingMixin, backends.ParallelBackendBase):
        supports_retrieve_callback = True

        def effective_n_jobs(self, n_jobs):
            return n_jobs

        def configure(self, n_jobs=1, parallel=None, **params):
            self.parallel = parallel
            self.pool = ThreadPool(n_jobs)
            return n_jobs

        def apply_async(self, func, callback=None):
            return self.pool.apply_async(
                func, callback=callback, error_callback=callback
            )

        def retrieve_result_callback(self, out):
            if isinstance(out, BaseException):
                raise out
            return out

        def terminate(self):
            self.pool.terminate()
            self.pool.join()

    parallel = Parallel(n_jobs=2, backend=Backend())
    assert parallel(squares(2000)) == [i * i for i in range(2000)]


@pytest.mark.slow
def test_loky(run_script):
    result = run_script(
        """
        import os, signal, threading
        from joblib._parallel_backends import LokyBackend
        from cypar import Parallel, delayed
        from cypar.core.config_state import current
        from cypar.core.errors import TaskPicklingError, WorkerCrash

        def double(x):
            return 2 * x

        def die(i):
            if i == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        def refilled(shared=[]):
            for i in range(20):
                shared[:] = [i]
                yield delayed(sum)(shared)

        backend = LokyBackend(nesting_level=0)
        for mode in ("list", "generator", "generator_unordered"):
            parallel = Parallel(n_jobs=2, backend=backend, return_as=mode)
            results = sorted(parallel(delayed(double)(i) for i in range(50)))
            assert results == list(range(0, 100, 2)), mode

        with Parallel(n_jobs=2, backend=backend) as parallel:
            assert parallel(refilled()) == list(range(20))
            assert parallel([delayed(lambda: current().nesting_level)()]) == [1]
            for task, error in (
                (delayed(die)(1), WorkerCrash),
                (delayed(divmod)(1, 0), ZeroDivisionError),
                (delayed(id)(threading.Lock()), TaskPicklingError),
            ):
                try:
                    parallel([delayed(abs)(1), task])
                except error as exc:
                    print(type(exc).__name__, exc.task_index)
                assert parallel(delayed(double)(i) for i in range(3)) == [0, 2, 4]
        """,
        timeout_s=50,
    )
    lines = result.stdout.splitlines()
    assert lines[0].split()[0] == "WorkerCrash"
    assert lines[1:] == ["ZeroDivisionError 1", "TaskPicklingError 1"]
