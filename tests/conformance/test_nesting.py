"""Calls inside tasks: P7, P34; threads inside tasks: P5."""

import os

import pytest

from cypar import Parallel, cpu_count, delayed


def levels(depth):
    """Return the names of the backends of a call here and of those in its tasks."""
    parallel = Parallel(n_jobs=2)
    if depth == 0:
        return [parallel._backend.name]
    below = parallel(delayed(levels)(depth - 1) for _ in range(2))
    assert below[0] == below[1]
    return [parallel._backend.name, *below[0]]


def test_p07_three_levels(engine):
    """Threads at level 1, sequential below; a serial outer loop does not count."""
    out = engine.parallel()(delayed(levels)(2) for _ in range(2))
    if engine.is_parallel:
        assert out == [["threading", "sequential", "sequential"]] * 2
    else:
        assert out == [["processes", "threading", "sequential"]] * 2


def test_p07_more_outer_tasks_than_workers(parallel_engine):
    def inner(i):
        return sum(Parallel(n_jobs=2)(delayed(abs)(-j) for j in range(i)))

    out = parallel_engine.parallel()(delayed(inner)(i) for i in range(40))
    assert out == [i * (i - 1) // 2 for i in range(40)]


@pytest.mark.parametrize("name", ["threading", "processes"])
def test_p07_named_backend_is_taken_inside_too(name):
    def inner():
        return Parallel(n_jobs=2, backend=name)(delayed(abs)(-j) for j in range(3))

    assert (
        Parallel(n_jobs=2, backend=name)(delayed(inner)() for _ in range(3))
        == [[0, 1, 2]] * 3
    )


@pytest.mark.slow
def test_p34_depth_is_limited(run_script):
    run_script(
        """
        from cypar import Parallel, delayed

        def inner():
            parallel = Parallel(n_jobs=2, backend="processes")
            return parallel(delayed(abs)(j) for j in (1, 2))

        try:
            Parallel(n_jobs=2)([delayed(inner)(), delayed(inner)()])
        except RuntimeError as error:
            assert "CYPAR_MAX_DEPTH" in str(error), error
        else:
            raise AssertionError("no limit")
        """,
        env={"CYPAR_MAX_DEPTH": "1"},
    )


def variable(name):
    return os.environ.get(name)


VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@pytest.mark.parametrize("name", VARIABLES)
def test_p05_workers_get_their_share_of_the_cpus(process_engine, monkeypatch, name):
    monkeypatch.delenv(name, raising=False)
    for n_jobs in (2, 3):
        out = process_engine.parallel(n_jobs)(delayed(variable)(name) for _ in range(3))
        assert out == [str(max(cpu_count() // n_jobs, 1))] * 3


def test_p05_what_the_user_set_stays(process_engine, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    out = process_engine.parallel()(
        delayed(variable)("OMP_NUM_THREADS") for _ in range(2)
    )
    assert out == ["3", "3"]


def test_p05_inner_max_num_threads(process_engine, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    out = process_engine.parallel(inner_max_num_threads=2)(
        delayed(variable)("OMP_NUM_THREADS") for _ in range(2)
    )
    assert out == ["2", "2"]


def test_p05_count_of_cpus_inside_a_task(process_engine):
    out = process_engine.parallel()(delayed(cpu_count)() for _ in range(2))
    assert out == [max(cpu_count() // 2, 1)] * 2


@pytest.mark.slow
def test_p05_libraries_that_are_loaded_already(process_engine):
    def task():
        import numpy  # noqa: F401
        import threadpoolctl

        return [info["num_threads"] for info in threadpoolctl.threadpool_info()]

    parallel = process_engine.parallel(inner_max_num_threads=1)
    for _ in range(2):  # at the second call the library is loaded before the limit
        for counts in parallel(delayed(task)() for _ in range(2)):
            assert set(counts) <= {1}
