"""In which order tasks start: early ones do not wait until the input is at its end."""

import itertools
import sys

import pytest

from cypar import Parallel, delayed

pytestmark = pytest.mark.timeout(30)


@pytest.mark.parametrize("batch_size", [1, "auto"])
def test_short_task_behind_a_long_one_passes_it(two_workers, signals, batch_size):
    """The input never ends, so no worker is ever idle; still nothing waits for long."""

    def task(i):
        if i == 0:
            signals.wait("end")
        return i

    results = Parallel(
        n_jobs=2, return_as="generator_unordered", batch_size=batch_size
    )(delayed(task)(i) for i in itertools.count())
    try:
        first = list(itertools.islice(results, 2000))
    finally:
        signals.set("end")
        results.close()
    assert set(range(1, 50)) <= set(first)


def test_worker_has_the_cypar_of_its_parent(run_python, tmp_path):
    """Another copy that comes earlier on the path is not what a worker imports."""
    other = tmp_path / "elsewhere" / "cypar"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("raise ImportError('the wrong cypar')\n")
    code = (
        "import sys\n"
        "from cypar import Parallel, delayed\n"
        f"sys.path.insert(0, {str(other.parent)!r})\n"
        "print(Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(4)))\n"
    )
    result = run_python("-c", code, returncode=None)
    assert result.stdout == "[0, 1, 2, 3]\n", result.stderr


def test_modules_of_the_test_run_are_the_parents(two_workers):
    def origin(name):
        __import__(name)
        return sys.modules[name].__file__

    expected = [sys.modules[name].__file__ for name in ("cypar", "cloudpickle")]
    results = Parallel(n_jobs=2)(delayed(origin)(n) for n in ("cypar", "cloudpickle"))
    assert results == expected
