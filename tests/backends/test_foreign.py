"""Objects written for the reference interface or for joblib, as backends."""

import contextlib
import os
import signal
import threading
import warnings
from concurrent.futures import Future
from multiprocessing.pool import ThreadPool
from operator import mul

import pytest

import cypar
from cypar import Parallel, ParallelBackendBase, delayed, parallel_backend
from cypar.backends import registry
from cypar.core.config_state import current
from cypar.core.errors import CyparError, CyparWarning, TaskTimeout

DEADLINE_S = 10.0
MODES = ["list", "generator", "generator_unordered"]


class Inside:
    """A class without any base, which runs each batch while it is submitted."""

    supports_retrieve_callback = True
    fails_in = None  # name of the method that raises
    nested = None

    def __init__(self):
        self.log = []
        self.batches = []
        self.sizes = [1]

    def note(self, name, *values):
        self.log.append((name, *values) if values else name)
        if name == self.fails_in:
            raise LookupError(f"broken {name}")

    def effective_n_jobs(self, n_jobs):
        self.note("effective_n_jobs")
        return 2 if n_jobs == -1 else n_jobs

    def configure(self, n_jobs=1, parallel=None, prefer=None, require=None, **params):
        self.note("configure")
        self.parallel = parallel
        return n_jobs

    def start_call(self):
        self.note("start_call")

    def compute_batch_size(self):
        self.note("compute_batch_size")
        return self.sizes[-1]

    def submit(self, func, callback=None):
        self.note("submit")
        self.batches.append(len(func))
        callback(func())

    def retrieve_result_callback(self, out):
        self.note("retrieve_result_callback")
        return out

    def batch_completed(self, batch_size, duration):
        assert duration >= 0
        self.note("batch_completed")

    @contextlib.contextmanager
    def retrieval_context(self):
        self.note("retrieval_context")
        yield

    def get_nested_backend(self):
        self.note("get_nested_backend")
        return self.nested

    def abort_everything(self, ensure_ready=True):
        self.note("abort_everything", ensure_ready)

    def stop_call(self):
        self.note("stop_call")

    def terminate(self):
        self.note("terminate")


class Pooled(ParallelBackendBase):
    """A backend of the old kind: `apply_async`, whose callback gets the results."""

    supports_sharedmem = True
    pool = None

    def __init__(self, endpoint=None, api_key=None):  # does not call its base class
        self.endpoint = endpoint
        self.api_key = api_key

    def effective_n_jobs(self, n_jobs):
        return 2 if n_jobs == -1 else n_jobs

    def configure(self, n_jobs=1, parallel=None, **params):
        self.pool = ThreadPool(n_jobs)
        return n_jobs

    def apply_async(self, func, callback=None):
        return self.pool.apply_async(func, callback=callback)

    def terminate(self):
        self.pool.terminate()
        self.pool.join()


class Deferred(Inside):
    """Keeps what is submitted until the test runs it."""

    def __init__(self):
        super().__init__()
        self.jobs = []
        self.submitted = threading.Semaphore(0)

    def submit(self, func, callback=None):
        self.jobs.append((func, callback))
        self.submitted.release()

    def run_next(self):
        assert self.submitted.acquire(timeout=DEADLINE_S)
        func, callback = self.jobs.pop(0)
        callback(func())


def fail(i, at):
    if i == at:
        raise ValueError(i)
    return i


def run(backend, tasks, n_jobs=2, **options):
    return Parallel(n_jobs=n_jobs, backend=backend, **options)(tasks)


def squares(n):
    return (delayed(mul)(i, i) for i in range(n))


@pytest.fixture
def register(monkeypatch):
    """`register_parallel_backend`, undone after the test."""
    monkeypatch.setattr(registry, "default_name", registry.default_name)
    known = set(registry.BACKENDS)
    yield cypar.register_parallel_backend
    for name in set(registry.BACKENDS) - known:
        del registry.BACKENDS[name]


# ---- names, factories, objects -------------------------------------------------------


def test_s57_a_registered_name_works_everywhere(register):
    register("mine", Pooled)

    assert run("mine", squares(5)) == [0, 1, 4, 9, 16]
    with parallel_backend("mine"):
        assert Parallel()(squares(3)) == [0, 1, 4]


def test_s57_make_default(register):
    made = []
    register("mine", lambda: made.append(Inside()) or made[-1], make_default=True)

    assert Parallel(n_jobs=2)(squares(3)) == [0, 1, 4]

    assert "submit" in made[-1].log


@pytest.mark.parametrize(
    "factory",
    [lambda: Pooled(), lambda nesting_level: Pooled(), lambda **params: Pooled()],
    ids=["none", "nesting_level", "any"],
)
def test_s58_factories_may_take_a_nesting_level(register, factory):
    register("mine", factory)
    assert run("mine", squares(3)) == [0, 1, 4]


def test_s59_parameters_are_attributes_inside_the_methods(register):
    class MyCustomBackend(Pooled):
        def apply_async(self, func, callback=None):
            assert (self.endpoint, self.api_key) == ("http://compute", "42")
            return super().apply_async(func, callback)

    register("custom", MyCustomBackend)

    with parallel_backend("custom", endpoint="http://compute", api_key="42"):
        assert Parallel()(squares(10)) == [i * i for i in range(10)]


def test_s60_all_workers_unless_the_caller_says_otherwise():
    backend = Pooled()
    with parallel_backend(backend):
        assert Parallel().n_jobs == -1
        assert Parallel(n_jobs=1).n_jobs == 1


def test_s61_the_previous_backend_comes_back():
    with contextlib.suppress(KeyError), parallel_backend(Inside()):
        assert Parallel()._backend.name == "Inside"
        raise KeyError
    assert Parallel(n_jobs=2)._backend.name == "processes"


def test_s62_one_job_means_one_task_at_a_time():
    running = []

    def work():
        running.append(1)
        assert len(running) == 1
        running.pop()

    with parallel_backend(Pooled()):
        Parallel(n_jobs=1)(delayed(work)() for _ in range(50))


def test_s63_parameters_come_with_names_only():
    with pytest.raises(ValueError, match="endpoint"):
        parallel_backend(Pooled(), endpoint="there")


@pytest.mark.parametrize("return_as", MODES)
@pytest.mark.parametrize("kind", [Inside, Pooled])
def test_s64_both_protocols_in_all_modes(kind, return_as):
    results = list(run(kind(), squares(200), return_as=return_as))
    assert sorted(results) == [i * i for i in range(200)]
    if return_as != "generator_unordered":
        assert results == sorted(results)


# ---- P41: the hooks ------------------------------------------------------------------


def test_p41_the_methods_of_a_call_in_their_order():
    backend = Inside()
    backend.sizes = [7]

    assert run(backend, squares(3), n_jobs=1) == [0, 1, 4]

    assert backend.log == [
        "effective_n_jobs",
        "configure",
        "start_call",
        "get_nested_backend",
        "retrieval_context",
        "compute_batch_size",
        "submit",
        "retrieve_result_callback",
        "batch_completed",
        "stop_call",
        "terminate",
    ]
    assert backend.batches == [3]


def test_p41_a_with_block_configures_once():
    backend = Inside()
    with Parallel(n_jobs=2, backend=backend) as parallel:
        for _ in range(3):
            assert parallel(squares(2)) == [0, 1]
        assert "terminate" not in backend.log
    for name, count in (("configure", 1), ("start_call", 3), ("terminate", 1)):
        assert backend.log.count(name) == count


@pytest.mark.parametrize("in_block", [False, True])
def test_p41_abort_tells_whether_the_backend_is_needed_again(in_block):
    backend = Inside()
    parallel = Parallel(n_jobs=2, backend=backend)
    with parallel if in_block else contextlib.nullcontext():
        with pytest.raises(ValueError, match=r"^3$"):
            parallel(delayed(fail)(i, 3) for i in range(9))
        assert ("abort_everything", in_block) in backend.log
        assert backend.log.count("stop_call") == 1
        assert parallel(squares(3)) == [0, 1, 4]


def test_p41_the_backend_chooses_automatic_batch_sizes():
    backend = Inside()
    backend.sizes = [4]
    assert run(backend, squares(10)) == [i * i for i in range(10)]
    assert max(backend.batches) == 4


def test_p41_a_given_batch_size_is_used_instead():
    backend = Inside()
    assert run(backend, squares(9), batch_size=3) == [i * i for i in range(9)]
    assert backend.batches == [3, 3, 3]
    assert "compute_batch_size" not in backend.log


def test_an_explicit_window_shows_single_tasks_first():
    backend = Inside()
    backend.sizes = [100]
    run(backend, squares(30), pre_dispatch=3)
    assert set(backend.batches[:12]) == {1}
    assert max(backend.batches) > 1


def test_the_parallel_attribute_is_a_facade():
    backend = Inside()
    run(backend, squares(3), max_nbytes=100, timeout=50)
    facade = backend.parallel
    assert not isinstance(facade, Parallel)
    assert (facade.n_jobs, facade.timeout, facade.verbose) == (2, 50, 0)
    assert facade._backend is backend
    assert facade._backend_kwargs["max_nbytes"] == 100
    assert facade._backend_args is facade._backend_kwargs
    assert isinstance(facade._id, str)
    assert repr(facade) == "Parallel(n_jobs=2)"


def test_the_facade_prints_only_if_verbose(capfd):
    backend = Inside()
    run(backend, squares(3))
    backend.parallel._print("%s of %d", "one", 2)
    assert capfd.readouterr() == ("", "")
    backend.parallel.verbose = 1
    backend.parallel._print("%s of %d", "one", 2)
    assert capfd.readouterr().err == "[Parallel(n_jobs=2)]: one of 2\n"


def test_a_backend_may_have_the_bare_minimum():
    class Bare:
        def effective_n_jobs(self, n_jobs):
            return n_jobs

        def apply_async(self, func, callback):
            callback(func())

    assert run(Bare(), squares(5)) == [0, 1, 4, 9, 16]


def test_the_submitted_function_has_a_length_and_returns_a_list():
    seen = []

    class Backend(Inside):
        def submit(self, func, callback):
            results = func()
            seen.append((len(func), list(results)))
            callback(list(results))

    assert run(Backend(), squares(4), batch_size=2) == [0, 1, 4, 9]
    assert seen == [(2, [0, 1]), (2, [4, 9])]


def test_tasks_of_a_batch_may_be_taken_one_by_one():
    class Backend(Inside):
        def submit(self, func, callback):
            callback([f(*args, **kwargs) for f, args, kwargs in func.items])

    assert run(Backend(), squares(4), batch_size=2) == [0, 1, 4, 9]
    with pytest.raises(ValueError, match=r"^3$") as caught:
        run(Backend(), [delayed(fail)(i, 3) for i in range(8)], batch_size=4)
    assert caught.value.task_index == 3


def test_no_workers_is_an_error():
    backend = Inside()
    backend.effective_n_jobs = lambda n_jobs: 0
    with pytest.raises(RuntimeError, match="Inside has no worker"):
        run(backend, squares(3))
    backend.effective_n_jobs = lambda n_jobs: None
    with pytest.raises(TypeError, match="returned None"):
        run(backend, squares(3))


def test_a_backend_may_know_its_size_only_when_it_is_configured():
    class Cluster(Inside):
        def effective_n_jobs(self, n_jobs):
            return self.size

        def configure(self, n_jobs=1, parallel=None, **params):
            self.size = 3
            return super().configure(n_jobs, parallel, **params)

    backend = Cluster()
    assert run(backend, squares(3), n_jobs=-1) == [0, 1, 4]
    assert backend.parallel.n_jobs == 3


# ---- falling back --------------------------------------------------------------------


class FallbackToBackend(Exception):
    def __init__(self, backend):
        super().__init__()
        self.backend = backend


class FallsBack(Inside):
    def configure(self, n_jobs=1, parallel=None, **params):
        super().configure(n_jobs, parallel)
        raise FallbackToBackend(self.other)


def test_a_backend_may_fall_back_to_another():
    backend = FallsBack()
    backend.other = Inside()
    for _ in range(2):
        assert run(backend, squares(3)) == [0, 1, 4]
    assert backend.log.count("configure") == 2
    assert "submit" not in backend.log
    assert backend.other.log.count("submit") == 6
    assert backend.other.log.count("terminate") == 2


def test_a_backend_may_fall_back_to_one_of_cypar():
    backend = FallsBack()
    with parallel_backend("threading"):
        backend.other, _ = cypar.get_active_backend()
    assert run(backend, squares(30)) == [i * i for i in range(30)]
    with pytest.raises(ValueError, match=r"^3$"):
        run(backend, (delayed(fail)(i, 3) for i in range(9)))


def test_falling_back_without_end_is_an_error():
    backend = FallsBack()
    backend.other = backend
    with pytest.raises(RuntimeError, match="fell back"):
        run(backend, squares(3))


# ---- callbacks -----------------------------------------------------------------------


def test_a_callback_may_come_twice():
    class Backend(Inside):
        def submit(self, func, callback):
            results = func()
            callback(results)
            callback(results)
            threading.Thread(target=callback, args=(results,)).start()

    backend = Backend()
    assert run(backend, squares(50)) == [i * i for i in range(50)]
    assert backend.log.count("batch_completed") == 50


def test_a_callback_with_an_exception_fails_the_call():
    class Backend(Pooled):
        def apply_async(self, func, callback):
            callback(ConnectionError("link is down"))

    with pytest.raises(ConnectionError, match="link is down") as caught:
        run(Backend(), squares(3))
    assert caught.value.task_index == 0


@pytest.mark.parametrize("results", [None, [1, 2, 3], 5, "ab"])
def test_what_is_no_list_of_results_is_an_error(results):
    class Backend(Inside):
        def submit(self, func, callback):
            callback(results)

    with pytest.raises(CyparError, match="expected the list of 2 results"):
        run(Backend(), squares(4), batch_size=2)


def test_a_callback_after_the_end_changes_nothing():
    backend = Deferred()

    def late(results):
        for func, callback in backend.jobs:
            callback(func())

    parallel = Parallel(n_jobs=2, backend=backend, return_as="generator")
    results = parallel(squares(3))
    backend.run_next()
    assert next(results) == 0
    results.close()
    late(results)
    assert list(results) == []


def test_jobs_that_fail_without_a_callback_are_found():
    class Job:
        def ready(self):
            return True

        def get(self):
            raise OSError("lost")

    class Backend(Pooled):
        def apply_async(self, func, callback=None):
            return Job()

    with pytest.raises(OSError, match="lost"):
        run(Backend(), squares(3))


def test_futures_without_callbacks_are_found():
    class Backend(Pooled):
        def apply_async(self, func, callback=None):
            future = Future()
            future.set_result(func())
            return future

    assert run(Backend(), squares(3)) == [0, 1, 4]


def test_jobs_that_run_when_they_are_asked():
    class Job:
        def __init__(self, func):
            self.get = func

    class Backend(Pooled):
        def apply_async(self, func, callback=None):
            return Job(func)

    assert run(Backend(), squares(4)) == [0, 1, 4, 9]
    with pytest.raises(ValueError, match=r"^1$"):
        run(Backend(), [delayed(fail)(i, 1) for i in range(3)])


def test_retrieve_result_is_used_without_retrieve_callback():
    class Backend(Pooled):
        def apply_async(self, func, callback=None):
            results = func()
            callback(None)
            return {"results": results}

        def retrieve_result(self, out, timeout=None):
            return out["results"]

    assert run(Backend(), squares(4)) == [0, 1, 4, 9]


def test_retrieve_result_callback_must_be_there():
    class Backend(ParallelBackendBase):
        supports_retrieve_callback = True

        def effective_n_jobs(self, n_jobs):
            return n_jobs

        def submit(self, func, callback):
            callback(func())

    with pytest.raises(TypeError, match="retrieve_result_callback"):
        run(Backend(), squares(3))


def test_one_of_the_two_protocols_must_be_there():
    class Backend(ParallelBackendBase):
        def effective_n_jobs(self, n_jobs):
            return n_jobs

    with pytest.raises(NotImplementedError, match="must define submit"):
        run(Backend(), squares(3))


# ---- errors --------------------------------------------------------------------------


@pytest.mark.parametrize("return_as", MODES)
@pytest.mark.parametrize(
    "name",
    [
        "effective_n_jobs",
        "configure",
        "start_call",
        "get_nested_backend",
        "retrieval_context",
        "compute_batch_size",
        "submit",
        "retrieve_result_callback",
        "batch_completed",
        "stop_call",
        "terminate",
    ],
)
def test_an_error_of_the_backend_is_that_of_the_call(name, return_as):
    backend = Inside()
    parallel = Parallel(n_jobs=2, backend=backend, return_as=return_as)
    backend.fails_in = name
    with pytest.raises(LookupError, match=f"broken {name}"):
        list(parallel(squares(5)))
    backend.fails_in = None
    backend.log.clear()
    assert sorted(parallel(squares(5))) == [0, 1, 4, 9, 16]
    assert backend.log.count("configure") == 1


@pytest.mark.parametrize("name", ["abort_everything", "stop_call", "terminate"])
def test_the_error_of_a_task_is_not_hidden_by_that_of_the_backend(name):
    backend = Inside()
    backend.fails_in = name
    with (
        pytest.warns(CyparWarning, match=f"broken {name}"),
        pytest.raises(ValueError, match=r"^3$"),
    ):
        run(backend, [delayed(fail)(i, 3) for i in range(9)])


def test_an_error_stops_the_call_at_once():
    ran = []

    def work(i):
        ran.append(i)
        return fail(i, 5)

    with pytest.raises(ValueError, match=r"^5$"):
        run(Inside(), (delayed(work)(i) for i in range(100)), pre_dispatch="all")
    assert ran == [0, 1, 2, 3, 4, 5]


def test_the_error_in_a_batch_is_that_of_its_task():
    with pytest.raises(ValueError, match=r"^7$") as caught:
        run(Inside(), [delayed(fail)(i, 7) for i in range(10)], batch_size=10)
    assert caught.value.task_index == 7
    assert "fail(i=7, at=7)" in str(caught.value.__cause__)


@pytest.mark.parametrize("kind", [Inside, Pooled])
@pytest.mark.parametrize("return_as", MODES)
def test_p51_an_error_of_the_iterator_is_raised(kind, return_as):
    def tasks():
        yield delayed(abs)(1)
        raise KeyError("no more")

    with pytest.raises(KeyError, match="no more"):
        list(run(kind(), tasks(), return_as=return_as))


def test_s68_ctrl_c_aborts_and_the_next_call_works():
    backend = Deferred()

    def interrupt():
        backend.submitted.acquire(timeout=DEADLINE_S)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(backend, squares(5))
    thread.join()
    assert ("abort_everything", False) in backend.log
    assert backend.log[-2:] == ["stop_call", "terminate"]
    assert run(Inside(), squares(3)) == [0, 1, 4]


def test_a_task_that_runs_too_long(request):
    end = threading.Event()
    request.addfinalizer(end.set)

    class Backend(Pooled):
        def abort_everything(self, ensure_ready=True):
            end.set()

    with pytest.raises(TaskTimeout, match="task 0 ran for more than"):
        run(Backend(), [delayed(end.wait)() for _ in range(4)], timeout=0.1)


def test_tasks_that_wait_for_a_worker_do_not_time_out():
    tick = threading.Event()
    tasks = [delayed(tick.wait)(0.1) for _ in range(10)]
    assert run(Pooled(), tasks, timeout=0.4) == [False] * 10


# ---- tasks ---------------------------------------------------------------------------


def test_tasks_share_the_callers_objects():
    lock = threading.Lock()
    seen = set()
    run(Pooled(), (delayed(seen.add)(i) for i in range(20)))
    assert seen == set(range(20))
    assert run(Pooled(), [delayed(id)(lock)] * 2) == [id(lock)] * 2


def test_tasks_see_the_callers_context_variables():
    import contextvars

    variable = contextvars.ContextVar("variable", default="none")
    variable.set("mine")
    for kind in (Inside, Pooled):
        assert run(kind(), [delayed(variable.get)()] * 3) == ["mine"] * 3


def nested_backend():
    parallel = Parallel(n_jobs=2)
    return current().nesting_level, parallel._backend.name, parallel.n_jobs


def test_p07_tasks_have_the_next_nesting_level():
    assert run(Pooled(), [delayed(nested_backend)()]) == [(1, "threading", 2)]
    assert current().nesting_level == 0


@pytest.mark.parametrize(
    ("nested", "expected"),
    [
        (("sequential", None), "sequential"),
        ("threading", "threading"),
        ((Inside(), 2), "Inside"),
        (Inside(), "Inside"),
        (None, "threading"),
        ((None, 3), "threading"),
    ],
)
def test_the_backend_chooses_what_is_nested_in_it(nested, expected):
    backend = Inside()
    backend.nested = nested
    ((level, name, _),) = run(backend, [delayed(nested_backend)()])
    assert (level, name) == (1, expected)


def test_the_backend_chooses_how_many_jobs_are_nested_in_it():
    backend = Inside()
    backend.nested = ("threading", 3)
    assert run(backend, [delayed(lambda: Parallel().n_jobs)()]) == [3]


def test_nested_calls_on_the_same_object_work():
    backend = Inside()
    backend.nested = (backend, 2)

    def work(i):
        return sum(Parallel()(delayed(mul)(i, j) for j in range(4)))

    assert run(backend, (delayed(work)(i) for i in range(4))) == [0, 6, 12, 18]
    assert backend.log.count("configure") == backend.log.count("terminate") == 1


def test_a_nested_call_never_holds_up_the_end_of_the_object():
    ends = threading.Event()
    was_stuck = []

    class Backend(Inside):
        thread = None

        def submit(self, func, callback=None):
            if self.thread is not None:
                raise LookupError("broken")
            self.thread = threading.Thread(target=lambda: callback(func()))
            self.thread.start()

        def terminate(self):
            ends.set()
            self.thread.join(DEADLINE_S)
            was_stuck.append(self.thread.is_alive())

    def work():
        ends.wait(DEADLINE_S)
        Parallel()(squares(3))

    backend = Backend()
    backend.nested = (backend, 2)
    with pytest.raises(LookupError, match="broken"):
        run(backend, [delayed(work)() for _ in range(2)])
    assert was_stuck == [False]


# ---- several calls on one object -----------------------------------------------------


def test_threads_may_share_an_object():
    backend = Pooled()
    results = {}

    def loop(n):
        results[n] = [run(backend, squares(20)) for _ in range(5)]

    threads = [threading.Thread(target=loop, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [[i * i for i in range(20)]] * 5 for n in range(4)}


def test_an_abort_ends_the_other_calls_on_the_object():
    backend = Deferred()
    waiting = run(backend, squares(3), return_as="generator")
    assert backend.submitted.acquire(timeout=DEADLINE_S)

    def tasks():
        yield delayed(abs)(1)
        raise KeyError("no more")

    with pytest.raises(KeyError, match="no more"):
        run(backend, tasks())
    with pytest.raises(CyparError, match="another call has failed on the same"):
        list(waiting)
    assert backend.log.count("terminate") == 1


def test_a_generator_may_outlive_its_block():
    backend = Deferred()
    with Parallel(n_jobs=2, backend=backend, return_as="generator") as parallel:
        results = parallel(squares(3))
    assert "terminate" not in backend.log
    for _ in range(3):
        backend.run_next()
    assert list(results) == [0, 1, 4]
    assert backend.log.count("terminate") == 1


# ---- generators ----------------------------------------------------------------------


def test_results_come_while_others_run():
    backend = Deferred()
    results = run(backend, squares(4), return_as="generator")
    backend.run_next()
    assert next(results) == 0
    for _ in range(3):
        backend.run_next()
    assert list(results) == [1, 4, 9]


def test_p03_a_dropped_generator_aborts_and_warns():
    backend = Deferred()
    results = run(backend, squares(100), return_as="generator")
    backend.run_next()
    assert next(results) == 0
    with pytest.warns(CyparWarning, match="dropped before its end"):
        del results
    assert ("abort_everything", False) in backend.log
    assert backend.log[-1] == "terminate"


def test_p03_a_second_call_meanwhile_is_refused():
    backend = Deferred()
    parallel = Parallel(n_jobs=2, backend=backend, return_as="generator")
    results = parallel(squares(3))
    with pytest.raises(RuntimeError, match="already running"):
        parallel(squares(3))
    results.close()


def test_the_input_is_not_drawn_beyond_the_window():
    drawn = []

    def tasks():
        for i in range(20):
            drawn.append(i)
            yield delayed(abs)(i)

    backend = Deferred()
    results = run(backend, tasks(), return_as="generator", pre_dispatch=3)
    for k in range(3):
        assert backend.submitted.acquire(timeout=DEADLINE_S), k
    assert drawn == [0, 1, 2]
    results.close()


@pytest.mark.parametrize("return_as", MODES)
def test_nothing_is_run_for_an_empty_input(return_as):
    backend = Inside()
    assert list(run(backend, [], return_as=return_as)) == []
    assert backend.batches == []


def test_no_warning_comes_from_a_backend_with_the_base_class_of_joblib():
    joblib = pytest.importorskip("joblib")

    class Backend(joblib.parallel.ParallelBackendBase):
        def effective_n_jobs(self, n_jobs):
            return n_jobs

        def apply_async(self, func, callback=None):
            callback(func())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(Backend(), squares(5)) == [0, 1, 4, 9, 16]
