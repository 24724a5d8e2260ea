"""Fixtures for the tests of large data."""

import gc

import pytest

from cypar import Parallel
from cypar.backends.pool.supervisor import pool
from cypar.transport import copies
from cypar.transport.segments import arena

BACKENDS = ("processes", "multiprocessing")


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Both backends whose workers map arrays."""
    return request.param


@pytest.fixture
def parallel(backend):
    """Return a function that makes a Parallel on the backend."""

    def make(n_jobs=2, **options):
        return Parallel(n_jobs=n_jobs, backend=backend, **options)

    return make


@pytest.fixture(autouse=True)
def no_named_folder(monkeypatch):
    for name in ("CYPAR_TEMP_FOLDER", "JOBLIB_TEMP_FOLDER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fresh_arena():
    """The arena of the process without segments, and counters at zero."""
    pool.shutdown()
    gc.collect()
    arena.trim(0)
    arena.counters.__init__()
    yield arena
    arena._max_bytes = arena._max_idle_bytes = None
    arena.trim(0)


@pytest.fixture
def warnings_anew():
    """Fallbacks warn again, although they did in another test."""
    copies._warned.clear()
    yield
    copies._warned.clear()
