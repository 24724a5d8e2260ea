"""Which backend is chosen: S13, S15, S17, S22-S26, S57-S63, S71, P1, P52."""

import contextlib
import os
import threading
from operator import neg

import pytest

import cypar
from cypar import (
    Parallel,
    ParallelBackendBase,
    delayed,
    parallel_backend,
    parallel_config,
    register_parallel_backend,
)
from cypar.config import BACKENDS


def pid(_=None):
    return os.getpid()


def other_process(parallel):
    return os.getpid() not in parallel(delayed(pid)(i) for i in range(4))


def test_s13_default_is_processes():
    assert other_process(Parallel(n_jobs=2))


def test_s13_isolated_memory(process_engine):
    mine = []
    assert (
        process_engine.parallel()(delayed(mine.append)(i) for i in range(3))
        == [None] * 3
    )
    assert mine == []


def test_s15_shared_objects(shared_engine):
    mine, found = object(), []

    def task(value):
        found.append(value is mine)
        return value

    out = shared_engine.parallel()(delayed(task)(mine) for _ in range(3))
    assert found == [True] * 3
    assert all(value is mine for value in out)


def test_s17_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"nope.*loky.*processes.*threading"):
        Parallel(n_jobs=2, backend="nope")
    with pytest.raises(ValueError, match="nope"), parallel_backend("nope"):
        pass


@pytest.mark.parametrize(
    ("prefer", "processes"), [("threads", False), ("processes", True), (None, True)]
)
def test_s22_prefer_picks_the_default(prefer, processes):
    assert other_process(Parallel(n_jobs=2, prefer=prefer)) is processes


def test_s22_prefer_gives_way_to_a_context():
    with parallel_backend("loky", n_jobs=2):
        assert other_process(Parallel(prefer="threads"))
    with parallel_backend("threading", n_jobs=2):
        assert not other_process(Parallel(prefer="processes"))


def test_s23_backend_argument_wins_over_a_context():
    with parallel_backend("threading", n_jobs=2):
        assert other_process(Parallel(backend="loky"))


@pytest.mark.parametrize("name", ["loky", "processes"])
def test_s24_sharedmem_wins_over_a_context_and_keeps_its_n_jobs(name, signals):
    with parallel_backend(name, n_jobs=2):
        parallel = Parallel(require="sharedmem")
        assert parallel.n_jobs == 2
        assert not other_process(parallel)
        parallel(delayed(signals.meet)("met", 2) for _ in range(2))


def test_s25_shared_set():
    shared_set = set()

    def collect(x):
        shared_set.add(x)

    out = Parallel(n_jobs=2, require="sharedmem")(delayed(collect)(i) for i in range(5))
    assert out == [None] * 5
    assert sorted(shared_set) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "options",
    [
        {"prefer": "processes", "require": "sharedmem"},
        {"backend": "loky", "require": "sharedmem"},
        {"backend": "processes", "require": "sharedmem"},
        {"prefer": "fibers"},
        {"require": "luck"},
    ],
)
def test_s26_conflicts(options):
    with pytest.raises(ValueError, match=r"prefer|require"):
        Parallel(n_jobs=2, **options)


class Named(ParallelBackendBase):
    """A backend in the old interface, without super().__init__ and nesting level."""

    supports_sharedmem = True

    def __init__(self, endpoint="here", api_key=None):
        self.endpoint = endpoint
        self.api_key = api_key
        self.n_calls = 0

    def effective_n_jobs(self, n_jobs):
        return 2

    def apply_async(self, func, callback=None):
        self.n_calls += 1
        assert self.endpoint in ("here", "http://compute")
        thread = threading.Thread(target=lambda: callback(func()))
        thread.start()
        thread.join()


@pytest.fixture
def register():
    names = []

    def register(name, factory, **options):
        names.append(name)
        register_parallel_backend(name, factory, **options)

    before = cypar.backends.registry.default_name
    yield register
    for name in names:
        BACKENDS.pop(name, None)
    cypar.backends.registry.default_name = before


@pytest.fixture
def foreign(parallel_engine):
    """Skip, through the engine, until foreign backends can be driven."""
    return parallel_engine


@pytest.mark.parametrize("parallel_engine", ["custom"], indirect=True)
class TestForeign:
    def test_s57_registered_name_is_valid_everywhere(self, foreign, register):
        register("mine", Named)
        assert Parallel(n_jobs=2, backend="mine")([delayed(neg)(1)]) == [-1]
        with parallel_backend("mine"):
            assert Parallel()([delayed(neg)(2)]) == [-2]

    def test_s57_make_default(self, foreign, register):
        made = []

        def factory():
            made.append(Named())
            return made[-1]

        register("mine", factory, make_default=True)
        assert Parallel(n_jobs=2)([delayed(neg)(1)]) == [-1]
        assert made[-1].n_calls == 1

    def test_s58_factory_without_arguments(self, foreign, register):
        register("mine", lambda: Named())
        assert Parallel(n_jobs=2, backend="mine")([delayed(neg)(1)]) == [-1]

    def test_s59_parameters_reach_the_backend(self, foreign, register):
        made = []

        def factory(**params):
            made.append(Named(**params))
            return made[-1]

        register("mine", factory)
        with parallel_backend("mine", endpoint="http://compute", api_key="42"):
            out = Parallel()(delayed(neg)(i) for i in range(5))
        assert out == [0, -1, -2, -3, -4]
        assert (made[-1].endpoint, made[-1].api_key) == ("http://compute", "42")

    def test_s63_an_instance(self, foreign):
        backend = Named()
        assert Parallel(n_jobs=2, backend=backend)([delayed(neg)(1)]) == [-1]
        with parallel_backend(backend):
            assert Parallel()([delayed(neg)(1)]) == [-1]
        assert backend.n_calls == 2

    def test_s63_parameters_with_an_instance(self, foreign):
        with (
            pytest.raises(ValueError, match="endpoint"),
            parallel_backend(Named(), endpoint="there"),
        ):
            pass


def test_s60_context_sets_backend_and_n_jobs(engine):
    if engine.name == "custom":
        params = {"endpoint": "http://compute", "api_key": "42"}
    else:
        params = {}
    with parallel_backend(engine.name, n_jobs=2, **params):
        assert Parallel().n_jobs == 2
        assert Parallel()(delayed(neg)(i) for i in range(3)) == [0, -1, -2]


def test_s61_contexts_nest_and_end_with_an_exception():
    def name():
        return Parallel(n_jobs=2)._backend.name

    assert name() == "processes"
    with parallel_backend("threading"):
        with contextlib.suppress(KeyError), parallel_backend("sequential"):
            assert name() == "sequential"
            raise KeyError
        assert name() == "threading"
    assert name() == "processes"


def test_s62_the_neg_example(capsys):
    with parallel_backend("threading"):
        print(Parallel()(delayed(neg)(i + 1) for i in range(5)))
    assert capsys.readouterr().out == "[-1, -2, -3, -4, -5]\n"


def test_s71_context_reaches_into_a_library():
    def library(xs):
        return Parallel()(delayed(threading.get_ident)() for _ in xs)

    with parallel_backend("threading", n_jobs=2):
        assert threading.get_ident() not in library(range(3))
    assert set(library(range(3))) == {threading.get_ident()}


def test_p01_parallel_config():
    with parallel_config(backend="threading", n_jobs=2, verbose=0, prefer="threads"):
        parallel = Parallel()
        assert parallel.n_jobs == 2
        assert parallel._backend.name == "threading"
        assert Parallel(n_jobs=1).n_jobs == 1


def test_p52_names_that_other_programs_read():
    assert set(cypar.BACKENDS) >= {"loky", "threading", "multiprocessing", "sequential"}
    assert cypar.DEFAULT_BACKEND in cypar.BACKENDS
    backend, n_jobs = cypar.get_active_backend()
    assert (backend.name, n_jobs) == ("processes", None)
    with parallel_backend("threading", n_jobs=3):
        backend, n_jobs = cypar.get_active_backend()
        assert (backend.name, n_jobs) == ("threading", 3)
    assert Parallel(n_jobs=2, backend="sequential")([delayed(abs)(-1)]) == [1]
