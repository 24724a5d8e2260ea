"""Calls inside the workers of pytest-xdist, which run tests in a thread or process."""

import re

import pytest

pytest.importorskip("xdist")

TESTS = """
import os

import pytest
from cypar import Parallel, delayed

@pytest.mark.parametrize("backend", ["processes", "threading", "multiprocessing"])
@pytest.mark.parametrize("n", range(3))
def test_call(backend, n, tmp_path):
    def task(i):
        (tmp_path / f"{i}-{os.getpid()}").touch()
        return i * n

    for _ in range(3):
        out = Parallel(n_jobs=2, backend=backend)(delayed(task)(i) for i in range(20))
        assert out == [i * n for i in range(20)]
    assert os.environ["PYTEST_XDIST_WORKER"]
"""


def test_calls_inside_of_xdist_workers(run_python, tmp_path):
    (tmp_path / "test_calls.py").write_text(TESTS)
    done = run_python(
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        "-p",
        "no:cacheprovider",
        tmp_path,
        timeout_s=60,
    )
    assert re.search(r"\b9 passed\b", done.stdout), done.stdout
    assert "Warning" not in done.stdout
