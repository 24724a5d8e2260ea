"""n_jobs: S8-S12, and S9: with one job there is no parallel code at all."""

import os
import threading

import pytest

from cypar import Parallel, cpu_count, delayed, parallel_backend


class Unpicklable:
    def __reduce__(self):
        raise AssertionError("pickled although n_jobs=1")


def where():
    return os.getpid(), threading.get_ident()


@pytest.fixture
def caller():
    return where()


@pytest.mark.parametrize("options", [{}, {"n_jobs": None}])
def test_s08_unset_means_one(options, caller):
    parallel = Parallel(**options)
    assert parallel.n_jobs == 1
    assert set(parallel(delayed(where)() for _ in range(4))) == {caller}


@pytest.mark.parametrize("name", ["threading", "processes"])
def test_s08_unset_takes_the_context(name):
    with parallel_backend(name, n_jobs=2):
        assert Parallel().n_jobs == 2
        assert Parallel(n_jobs=None).n_jobs == 2
        assert Parallel(n_jobs=3).n_jobs == 3
    with parallel_backend(name):
        assert Parallel().n_jobs == -1


@pytest.mark.parametrize("name", ["sequential", "threading", "processes", "loky"])
def test_s09_one_job_runs_in_the_caller(name, caller, signals):
    before = threading.active_count()
    lock, value = threading.Lock(), Unpicklable()

    def task(_lock, same):
        return where(), same, threading.active_count()

    parallel = Parallel(n_jobs=1, backend=name)
    out = parallel(delayed(task)(lock, value) for _ in range(3))
    assert out == [(caller, value, before)] * 3


@pytest.mark.parametrize("name", ["sequential", "threading", "processes"])
def test_s09_one_job_leaves_the_traceback_alone(name):
    def outer():
        inner()

    def inner():
        raise KeyError("me")

    with pytest.raises(KeyError) as caught:
        Parallel(n_jobs=1, backend=name)([delayed(outer)()])
    assert [entry.name for entry in caught.traceback][-2:] == ["outer", "inner"]
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("name", ["threading", "processes"])
def test_s09_one_job_generator_is_computed_on_demand(name, caller):
    ran = []
    generator = Parallel(n_jobs=1, backend=name, return_as="generator")(
        delayed(ran.append)(i) for i in range(3)
    )
    assert ran == []
    next(generator)
    assert ran == [0]
    assert list(generator) == [None, None]


def test_s10_minus_one_means_all_cpus(parallel_engine):
    assert parallel_engine.parallel(-1)(delayed(abs)(i) for i in range(5)) == [
        *range(5)
    ]


@pytest.mark.parametrize("name", ["threading", "processes"])
@pytest.mark.parametrize("n_jobs", [-1, -2, -3, -1000, 1, 7])
def test_s11_negative_values_count_from_the_cpus(name, n_jobs):
    expected = n_jobs if n_jobs > 0 else max(1, cpu_count() + 1 + n_jobs)
    assert (
        Parallel(n_jobs=n_jobs, backend=name)._backend.effective_n_jobs(n_jobs)
        == expected
    )


@pytest.mark.parametrize("n_jobs", [2, 3])
def test_s12_never_more_at_once(engine, n_jobs, signals):
    """Each task counts who runs now."""

    def task(i):
        signals.set(f"running-{i}")
        now = signals.count("running")
        os.remove(signals.path(f"running-{i}"))
        return now

    seen = engine.parallel(n_jobs, pre_dispatch="all")(
        delayed(task)(i) for i in range(60)
    )
    assert max(seen) <= (n_jobs if engine.is_parallel else 1)


@pytest.mark.parametrize("n_jobs", [2, 5])
def test_s12_so_many_do_run_at_once(parallel_engine, n_jobs, signals):
    """Also more than there are CPUs."""
    who = parallel_engine.parallel(n_jobs)(
        delayed(signals.meet)("met", n_jobs) for _ in range(n_jobs)
    )
    assert len(set(who)) == n_jobs


def test_s12_zero_is_refused(engine):
    with pytest.raises(ValueError, match="n_jobs"):
        engine.parallel(0)([delayed(abs)(1)])


@pytest.mark.parametrize("value", ["two", "", float("nan"), float("inf")])
def test_s12_bad_values(engine, value):
    with pytest.raises(ValueError, match="n_jobs"):
        engine.parallel(value)([delayed(abs)(1)])


@pytest.mark.parametrize("value", [True, [], object()])
def test_s12_what_is_no_number(engine, value):
    with pytest.raises(TypeError, match="n_jobs"):
        engine.parallel(value)([delayed(abs)(1)])


def test_s12_floats_are_truncated():
    assert Parallel(n_jobs=2.9, backend="threading").n_jobs == 2
