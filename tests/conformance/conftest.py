"""One suite for all backends: each test gets an `Engine` and asks it for a Parallel.

    engine            every backend
    parallel_engine   all but 'sequential'
    process_engine    those whose tasks run in other processes
    shared_engine     those whose tasks share the caller's objects

What a backend cannot do at all stands in `SKIPS`, with its reason; no test skips by
itself (test_skips.py). A backend whose module does not exist yet skips here too.
"""

import importlib.util
import os
import threading
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest

import cypar
from cypar import Parallel, ParallelBackendBase, parallel_backend
from cypar.config import BACKENDS

DEADLINE_S = 10.0

SERIAL = "a serial loop does nothing at the same time"
FOREIGN = "the reference text's backend interface has no such thing"
# test name -> {backend: why it can never pass there}
SKIPS = {
    "test_s34_three_timeout_errors": {"custom": FOREIGN + ": nothing stops a task"},
    "test_s34_counts_from_the_start_of_the_task": {
        "custom": FOREIGN + ": nothing tells when a task starts"
    },
    "test_s27_block_keeps_its_workers": {"custom": "its pool is its own affair"},
    "test_late_tasks_fail_alone": {"custom": FOREIGN + ": nothing stops a task"},
    "test_a_late_task_is_told_with_its_arguments": {
        "custom": FOREIGN + ": nothing stops a task"
    },
    "test_p07_three_levels": {"custom": "what is nested in it is its own choice"},
    "test_p02_unread_results_are_bounded": {"sequential": SERIAL},
    "test_p02_bound_holds_behind_a_slow_head": {"sequential": SERIAL},
}

PROCESS = ("processes", "loky", "multiprocessing")
SHARED = ("sequential", "threading", "custom")
ALL = ("sequential", "threading", *PROCESS, "custom")

# backend -> the module it needs
HOMES = {
    "multiprocessing": "cypar.backends.multiprocessing",
    "custom": "cypar.backends.foreign",
}
# 'loky' is the same pool as 'processes' under another name: these tests are enough.
LOKY_FILES = ("test_results.py", "test_blocks.py", "test_choice.py")


class CustomBackend(ParallelBackendBase):
    """A backend as the reference text describes them, on a pool of threads."""

    supports_sharedmem = True

    def __init__(self, endpoint, api_key):
        self.endpoint = endpoint
        self.api_key = api_key
        self.pool = None

    def effective_n_jobs(self, n_jobs):
        assert (self.endpoint, self.api_key) == ("http://compute", "42")
        return n_jobs if n_jobs > 0 else max(1, cypar.cpu_count() + 1 + n_jobs)

    def configure(self, n_jobs=1, parallel=None, **params):
        self.parallel = parallel
        n_jobs = self.effective_n_jobs(n_jobs)
        self.pool = ThreadPool(n_jobs)
        return n_jobs

    def apply_async(self, func, callback=None):
        return self.pool.apply_async(func, callback=callback)

    def terminate(self):
        if self.pool is not None:
            self.pool.terminate()
            self.pool.join()
            self.pool = None


class Engine:
    """One backend under test.

    Attributes
    ----------
    name : str
    is_parallel, pickles : bool
        Whether tasks run at the same time; whether they run in other processes.
    """

    def __init__(self, name):
        self.name = name
        self.is_parallel = name != "sequential"
        self.pickles = name in PROCESS

    def parallel(self, n_jobs=2, **options):
        """Return a Parallel on this backend."""
        if self.name != "custom":
            return Parallel(n_jobs=n_jobs, backend=self.name, **options)
        with parallel_backend("custom", endpoint="http://compute", api_key="42"):
            return Parallel(n_jobs=n_jobs, **options)

    def __repr__(self):
        return self.name


def pytest_collection_modifyitems(items):
    for item in items:
        name = getattr(item, "originalname", None)
        engine = getattr(item, "callspec", None) and engine_name(item)
        if reason := SKIPS.get(name, {}).get(engine):
            item.add_marker(pytest.mark.skip(reason=f"{engine}: {reason}"))


def engine_name(item):
    """Return the backend that a collected test is for, or None."""
    for name, value in item.callspec.params.items():
        if name.endswith("engine"):
            return value
    return None


def make_engine(request):
    name = request.param
    if name in HOMES and importlib.util.find_spec(HOMES[name]) is None:
        pytest.skip(f"{HOMES[name]} is not written yet")
    if name == "loky" and request.node.path.name not in LOKY_FILES:
        pytest.skip("the pool behind 'processes' under another name")
    if name == "custom":
        cypar.register_parallel_backend("custom", CustomBackend)
    yield Engine(name)
    BACKENDS.pop("custom", None)


engine = pytest.fixture(params=ALL, name="engine")(make_engine)
parallel_engine = pytest.fixture(params=ALL[1:], name="parallel_engine")(make_engine)
process_engine = pytest.fixture(params=PROCESS, name="process_engine")(make_engine)
shared_engine = pytest.fixture(params=SHARED, name="shared_engine")(make_engine)


# ---- signals between the test and its tasks, in whatever process they run ----------


class Signals:
    """Files in a folder: `set` makes one, `wait` waits for one, `meet` for several."""

    def __init__(self, folder):
        self.folder = str(folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def set(self, name):
        Path(self.path(name)).touch()

    def is_set(self, name):
        return os.path.exists(self.path(name))

    def wait(self, name, deadline_s=DEADLINE_S):
        self.until(lambda: self.is_set(name), f"the signal {name!r}", deadline_s)

    def meet(self, name, n, deadline_s=DEADLINE_S):
        """Wait until ``n`` callers are here; returns the caller's identity."""
        me = f"{os.getpid()}-{threading.get_ident()}"
        self.set(f"{name}-{me}")
        self.until(lambda: self.count(name) >= n, f"{n} at {name!r}", deadline_s)
        return me

    def count(self, name):
        return sum(entry.startswith(f"{name}-") for entry in os.listdir(self.folder))

    def note(self, name, text):
        """Add one line to a file; lines of several processes never mix."""
        with open(self.path(name), "ab", buffering=0) as file:
            file.write(f"{text}\n".encode())

    def notes(self, name):
        if not self.is_set(name):
            return []
        return Path(self.path(name)).read_text().splitlines()

    @staticmethod
    def until(condition, what, deadline_s=DEADLINE_S):
        deadline = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {deadline_s} s for {what}")
            time.sleep(0.001)


@pytest.fixture
def signals(tmp_path):
    return Signals(tmp_path)
