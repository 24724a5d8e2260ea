"""Stubs for the backends: these tests see which one is chosen, and nothing runs."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from cypar import config
from cypar.backends import registry
from cypar.backends.base import Backend
from cypar.core import config_state
from cypar.resolution import resolve


class StubBackend(Backend):
    def __init__(self, name, context=None):
        self.name = name
        self.context = context
        self.supports_sharedmem = name in ("ThreadBackend", "SequentialBackend")

    def effective_n_jobs(self, n_jobs):
        if self.name == "SequentialBackend":
            return 1
        return n_jobs if n_jobs > 0 else max(8 + 1 + n_jobs, 1)


class StubAdapter(Backend):
    """Stands for both adapters of backends/foreign.py."""

    def __init__(self, wrapped):
        self.wrapped = wrapped
        self.supports_sharedmem = getattr(wrapped, "supports_sharedmem", False)
        self.default_n_jobs = getattr(wrapped, "default_n_jobs", 1)

    def effective_n_jobs(self, n_jobs):
        return self.wrapped.effective_n_jobs(n_jobs)


@pytest.fixture(autouse=True)
def clean_slate(monkeypatch):
    """Stub backends, no environment, and a check that the test leaves nothing set."""
    names = ("CYPAR_BACKEND", "CYPAR_N_JOBS")
    for name in (*names, "CYPAR_MULTIPROCESSING", "JOBLIB_MULTIPROCESSING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(config, "_process_defaults", None)
    monkeypatch.setattr(registry, "_processes_allowed", None)
    monkeypatch.setattr(registry, "default_name", registry.default_name)
    monkeypatch.setattr(registry, "_adapter", lambda class_name: StubAdapter)
    monkeypatch.setattr(
        registry.BuiltinFactory,
        "load",
        lambda self: lambda **params: StubBackend(self.class_name, **params),
    )
    for factory in {id(f): f for f in registry.BACKENDS.values()}.values():
        monkeypatch.setattr(factory, "instance", None)
    names_before = dict(registry.BACKENDS)
    yield
    registry.BACKENDS.clear()
    registry.BACKENDS.update(names_before)
    config_state._base = config_state.BLANK  # some tests play a worker process
    assert config_state.current() is config_state.BLANK


@pytest.fixture
def stub_backend():
    """Class of the stubs of cypar's own backends."""
    return StubBackend


@pytest.fixture
def backend_name():
    """Function that returns the name of the backend which `resolve` chooses."""
    return lambda **arguments: resolve(**arguments).backend.name


@pytest.fixture
def in_task():
    """Call a function as a task of some nesting level is called."""

    def call(level, function):
        state = config_state.task_state(level)
        return config_state.task_context(state).run(function)

    return call


@pytest.fixture
def in_new_thread():
    """Call a function in another thread, with settings of its own."""

    def call(function):
        with ThreadPoolExecutor(1) as executor:
            return executor.submit(function).result()

    return call
