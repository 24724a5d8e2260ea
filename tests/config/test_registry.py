"""Backends of others: names, objects, executors and contexts."""

from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import pytest

from cypar import config
from cypar.config import (
    parallel_backend,
    parallel_config,
    register_parallel_backend,
)
from cypar.core.errors import CyparWarning
from cypar.resolution import (
    effective_n_jobs,
    get_active_backend,
    resolve,
)


class JoblibStyleBackend:
    """What a user writes: no base class, no call of super().__init__."""

    supports_sharedmem = False

    def __init__(self, endpoint="here", api_key=None):
        self.endpoint = endpoint
        self.api_key = api_key

    def configure(self, n_jobs=1, parallel=None, prefer=None, require=None, **params):
        return self.effective_n_jobs(n_jobs)

    def effective_n_jobs(self, n_jobs):
        return 5

    def apply_async(self, func, callback=None):
        raise NotImplementedError


def test_s57_registered_name_is_valid_everywhere():
    register_parallel_backend("mine", JoblibStyleBackend)
    assert isinstance(resolve("mine").backend.wrapped, JoblibStyleBackend)
    with parallel_backend("mine"):
        assert isinstance(resolve().backend.wrapped, JoblibStyleBackend)
    assert "mine" in config.BACKENDS


def test_s57_make_default(backend_name):
    register_parallel_backend("mine", JoblibStyleBackend, make_default=True)
    assert isinstance(resolve().backend.wrapped, JoblibStyleBackend)
    assert backend_name(prefer="threads") == "ThreadBackend"
    assert config.DEFAULT_BACKEND == "mine"


@pytest.mark.parametrize("arguments", [(3, dict), ("mine", JoblibStyleBackend())])
def test_s57_wrong_arguments(arguments):
    with pytest.raises(TypeError, match="must be a"):
        register_parallel_backend(*arguments)


def test_s58_factory_without_arguments():
    register_parallel_backend("mine", lambda: JoblibStyleBackend())
    assert resolve("mine").backend.wrapped.nesting_level == 0


def test_s58_factory_with_nesting_level(in_task):
    levels = []

    def factory(nesting_level=None):
        levels.append(nesting_level)
        return JoblibStyleBackend()

    register_parallel_backend("mine", factory)
    in_task(2, lambda: resolve("mine"))
    assert levels == [2]


def test_s58_factory_with_kwargs_gets_from_a_context_what_the_user_wrote():
    seen = []

    def factory(**params):
        seen.append(params)
        return JoblibStyleBackend()

    register_parallel_backend("mine", factory)
    with parallel_backend("mine", endpoint="there"):
        resolve("mine")
    assert seen == [{"endpoint": "there"}, {"nesting_level": 0}]


def test_s58_factory_that_returns_no_backend():
    register_parallel_backend("mine", dict)
    with pytest.raises(TypeError, match=r"factory of 'mine' returned is a dict"):
        resolve("mine")


def test_s58_type_error_inside_a_factory_is_not_hidden():
    def factory(nesting_level=None):
        raise TypeError("my own fault")

    register_parallel_backend("mine", factory)
    with pytest.raises(TypeError, match="my own fault"):
        resolve("mine")


def test_s59_constructor_parameters():
    register_parallel_backend("custom", JoblibStyleBackend)
    with parallel_backend("custom", endpoint="http://compute", api_key="42"):
        first, second = resolve().backend, resolve().backend
    assert first is second  # one object for the whole block
    assert first.wrapped.endpoint == "http://compute"
    assert first.wrapped.api_key == "42"


def test_s63_instance():
    mine = JoblibStyleBackend()
    assert resolve(mine).backend.wrapped is mine
    with parallel_backend(mine):
        assert resolve().backend.wrapped is mine
    assert mine.nesting_level == 0


@pytest.mark.parametrize("use", [parallel_config, parallel_backend])
def test_s63_parameters_with_an_instance(use):
    with pytest.raises(ValueError, match="'endpoint'"):
        use(JoblibStyleBackend(), endpoint="there")


def test_s63_cypar_backend_instance(stub_backend):
    mine = stub_backend("mine")
    assert resolve(mine).backend is mine


def test_s64_subclass_of_joblibs_base_class():
    from joblib.parallel import ParallelBackendBase

    class Theirs(ParallelBackendBase):
        def effective_n_jobs(self, n_jobs):
            return 3

        def submit(self, func, callback=None):
            raise NotImplementedError

    mine = Theirs()
    assert resolve(mine).backend.wrapped is mine
    with parallel_config(mine):
        assert effective_n_jobs() == 3


def test_s64_default_n_jobs_of_the_backend():
    mine = JoblibStyleBackend()
    mine.default_n_jobs = -1
    assert resolve(mine).n_jobs == -1
    with parallel_config(n_jobs=2):
        assert resolve(mine).n_jobs == 2


def test_s64_executor():
    with ThreadPoolExecutor(1) as executor:
        assert resolve(executor).backend.wrapped is executor


def test_p05_limit_reaches_a_backend_that_knows_it():
    mine = JoblibStyleBackend()
    mine.supports_inner_max_num_threads = True
    with parallel_config(mine, inner_max_num_threads=2):
        assert mine.inner_max_num_threads == 2


def test_p05_limit_is_refused_by_a_backend_that_does_not():
    with pytest.raises(ValueError, match="cannot limit the threads"):
        parallel_config(JoblibStyleBackend(), inner_max_num_threads=2)


def test_p09_without_multiprocessing_the_default_is_threads(backend_name, monkeypatch):
    monkeypatch.setenv("JOBLIB_MULTIPROCESSING", "0")
    assert backend_name() == "ThreadBackend"
    assert backend_name(prefer="processes") == "ThreadBackend"
    with pytest.warns(CyparWarning, match="'loky' needs processes"):
        assert backend_name(backend="loky") == "ThreadBackend"


def test_p09_cypars_variable_wins(backend_name, monkeypatch):
    monkeypatch.setenv("JOBLIB_MULTIPROCESSING", "0")
    monkeypatch.setenv("CYPAR_MULTIPROCESSING", "1")
    assert backend_name() == "ProcessBackend"


def test_p10_multiprocessing_context():
    context = get_context("spawn")
    backend = resolve(context).backend
    assert backend.name == "MultiprocessingBackend"
    assert backend.context is context


def test_p52_names_for_third_party_code():
    assert config.DEFAULT_BACKEND == "processes"
    assert {"loky", "threading", "multiprocessing", "sequential"} <= set(
        config.BACKENDS
    )
    backend, n_jobs = get_active_backend()
    assert (backend.name, n_jobs) == ("ProcessBackend", None)
    with parallel_backend("threading", n_jobs=3):
        backend, n_jobs = get_active_backend()
        assert (backend.name, n_jobs) == ("ThreadBackend", 3)


def test_p52_builtin_factory_can_be_called():
    assert config.BACKENDS["threading"](nesting_level=0).name == "ThreadBackend"


def test_p04_effective_n_jobs_asks_the_active_backend():
    assert effective_n_jobs(None) == 1
    assert effective_n_jobs(1) == 1
    with parallel_backend("threading", n_jobs=3):
        assert effective_n_jobs(None) == 3
        assert effective_n_jobs() == 8
    with parallel_backend("sequential"):
        assert effective_n_jobs(4) == 1
