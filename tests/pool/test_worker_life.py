"""Initializers, replacing workers between tasks, numbers of workers, warmup."""

import os
import threading
from pathlib import Path

import pytest

import cypar
from cypar import InitializerError, Parallel, delayed, parallel_config, worker_index
from cypar.backends.pool import recycling

pytestmark = pytest.mark.slow

MB = 1 << 20


def begin(value, signals=None):
    import builtins

    builtins.cypar_test_value = value
    if signals is not None:
        signals.note("begun", os.getpid())


def value():
    import builtins

    return getattr(builtins, "cypar_test_value", None)


# ---- initializer ---------------------------------------------------------------------


def test_initializer_is_called_once_per_worker_before_its_tasks(fresh_pool, signals):
    run = Parallel(n_jobs=2, batch_size=1, initializer=begin, initargs=(5, signals))
    for _ in range(3):
        assert run(delayed(value)() for _ in range(20)) == [5] * 20
    begun = signals.notes("begun")
    assert len(begun) == len(set(begun)) <= 2


def test_initializer_of_a_context(fresh_pool):
    with parallel_config("processes", n_jobs=2, initializer=begin, initargs=(7,)):
        assert Parallel()(delayed(value)() for _ in range(4)) == [7] * 4
        again = Parallel(initializer=begin, initargs=(8,))
        assert again(delayed(value)() for _ in range(4)) == [8] * 4


def test_workers_of_another_initializer_are_not_used(fresh_pool):
    assert (
        Parallel(n_jobs=2, initializer=begin, initargs=(1,))(
            delayed(value)() for _ in range(4)
        )
        == [1] * 4
    )
    assert Parallel(n_jobs=2)(delayed(value)() for _ in range(4)) == [None] * 4
    assert (
        Parallel(n_jobs=2, initializer=begin, initargs=(2,))(
            delayed(value)() for _ in range(4)
        )
        == [2] * 4
    )
    idle, leased = fresh_pool.pids()
    assert not leased
    assert len(idle) <= max(cypar.cpu_count(), 2)


def test_closure_as_initializer(fresh_pool):
    number = 11

    def start():
        begin(number)

    run = Parallel(n_jobs=2, initializer=start)
    assert run(delayed(value)() for _ in range(4)) == [11] * 4


def test_replacement_of_a_dead_worker_is_set_up(fresh_pool):
    run = Parallel(n_jobs=2, initializer=begin, initargs=(3,), on_error="return")
    run(delayed(os._exit)(1) for _ in range(2))
    assert run(delayed(value)() for _ in range(6)) == [3] * 6


def fail():
    raise LookupError("no device here")


def die():
    os._exit(4)


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_initializer_that_raises(fresh_pool, return_as):
    run = Parallel(n_jobs=2, initializer=fail, return_as=return_as)
    with pytest.raises(InitializerError, match="LookupError: no device here") as caught:
        list(run(delayed(abs)(i) for i in range(9)))
    assert type(caught.value.__cause__) is LookupError
    assert Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]


def test_initializer_that_ends_its_process(fresh_pool):
    with pytest.raises(InitializerError, match="exited with code 4"):
        Parallel(n_jobs=2, initializer=die)(delayed(abs)(i) for i in range(9))


def test_initializer_that_cannot_be_pickled(fresh_pool):
    with pytest.raises(InitializerError, match="cannot be sent"):
        Parallel(n_jobs=2, initializer=begin, initargs=(threading.Lock(),))(
            delayed(abs)(i) for i in range(9)
        )


def test_initializer_runs_in_the_caller_for_one_job():
    seen = []
    run = Parallel(n_jobs=1, initializer=seen.append, initargs=(1,))
    assert run(delayed(len)(seen) for _ in range(2)) == [1, 1]


@pytest.mark.parametrize(
    ("params", "part"),
    [
        ({"initializer": 3}, "initializer must be a function"),
        ({"initargs": (1,)}, "came without an initializer"),
        ({"initializer": print, "initargs": 5}, "initargs must be a tuple"),
        ({"max_tasks_per_worker": 0}, "max_tasks_per_worker must be an integer"),
        ({"max_tasks_per_worker": 1.5}, "max_tasks_per_worker must be an integer"),
        ({"max_worker_memory": "lots"}, "max_worker_memory must be a number"),
        ({"max_worker_memory": -1}, "max_worker_memory must be a number"),
    ],
)
def test_wrong_values_are_refused(params, part):
    with pytest.raises(ValueError, match=part):
        Parallel(n_jobs=2, **params)
    with pytest.raises(ValueError, match=part), parallel_config("processes", **params):
        pass


def test_parameters_that_a_backend_does_not_have():
    with pytest.raises(ValueError, match="'threading' has no parameter 'initializer'"):
        Parallel(n_jobs=2, backend="threading", initializer=print)
    with pytest.raises(ValueError, match=r"has no parameter 'initialiser'.*initargs"):
        parallel_config("processes", initialiser=print)
    with pytest.raises(TypeError, match="initialiser"):
        Parallel(n_jobs=2, initialiser=print)


# ---- replacing -----------------------------------------------------------------------


def note(signals, i):
    signals.note("runs", f"{os.getpid()} {i}")
    return i


@pytest.mark.parametrize("batch_size", [1, 7, "auto"])
@pytest.mark.parametrize("return_as", ["list", "generator_unordered"])
def test_no_worker_runs_more_tasks_than_it_may(
    fresh_pool, signals, batch_size, return_as
):
    run = Parallel(
        n_jobs=2, batch_size=batch_size, max_tasks_per_worker=10, return_as=return_as
    )
    results = sorted(run(delayed(note)(signals, i) for i in range(95)))
    assert results == list(range(95))
    runs = [line.split() for line in signals.notes("runs")]
    assert sorted(int(i) for _, i in runs) == results  # each once
    pids = [pid for pid, _ in runs]
    assert max(map(pids.count, pids)) <= 10
    assert len(set(pids)) >= 10


def test_the_count_goes_on_over_calls(fresh_pool):
    run = Parallel(n_jobs=2, batch_size=1, max_tasks_per_worker=3)
    pids = []
    for _ in range(6):
        pids += run(delayed(os.getpid)() for _ in range(2))
    assert max(map(pids.count, pids)) <= 3


def leak(size, signals, i):
    import builtins  # globals of a function that is sent by value are each task's own

    kept = vars(builtins).setdefault("cypar_test_kept", [])
    kept.append(bytearray(os.urandom(1024)) * (size // 1024))
    signals.note("runs", f"{os.getpid()} {i}")
    return i


def test_worker_that_holds_too_much_is_replaced(fresh_pool, signals, monkeypatch):
    monkeypatch.setattr(recycling, "MEMORY_CHECK_S", 0.0)
    run = Parallel(n_jobs=2, batch_size=1, max_worker_memory="150M")
    results = run(delayed(leak)(40 * MB, signals, i) for i in range(24))
    assert results == list(range(24))
    runs = [line.split() for line in signals.notes("runs")]
    assert sorted(int(i) for _, i in runs) == results
    pids = [pid for pid, _ in runs]
    assert max(map(pids.count, pids)) <= 8  # 4 fill it; a few more are on their way
    assert len(set(pids)) >= 3


def test_replaced_workers_are_set_up_again(fresh_pool):
    run = Parallel(
        n_jobs=2, initializer=begin, initargs=(9,), max_tasks_per_worker=2, batch_size=1
    )
    assert run(delayed(value)() for _ in range(12)) == [9] * 12


# ---- numbers -------------------------------------------------------------------------


def number(signals):
    pid = signals.meet("numbers", 3)
    return worker_index(), pid


@pytest.mark.parametrize("backend", ["processes", "threading"])
def test_workers_have_the_numbers_from_0_on(fresh_pool, signals, backend):
    barrier = threading.Barrier(3)

    def at_once():
        barrier.wait(10)
        return worker_index()

    if backend == "processes":
        run = Parallel(n_jobs=3, batch_size=1)
        found = [index for index, _ in run(delayed(number)(signals) for _ in range(3))]
    else:
        run = Parallel(n_jobs=3, backend="threading")
        found = run(delayed(at_once)() for _ in range(3))
    assert sorted(found) == [0, 1, 2]
    assert worker_index() == 0


def test_serial_loop_has_number_0():
    assert Parallel(n_jobs=1)([delayed(worker_index)()] * 3) == [0] * 3


def die_or_number(i):
    if i % 5 == 4:
        os._exit(1)
    return worker_index()


def test_replacements_keep_the_number(fresh_pool):
    run = Parallel(n_jobs=2, batch_size=1, on_error="return")
    found = run(delayed(die_or_number)(i) for i in range(40))
    assert {index for index in found if isinstance(index, int)} <= {0, 1}
    run = Parallel(n_jobs=2, batch_size=1, max_tasks_per_worker=1)
    assert set(run(delayed(worker_index)() for _ in range(20))) <= {0, 1}


def nested():
    inner = Parallel(n_jobs=2, backend="threading")
    return worker_index(), set(inner(delayed(worker_index)() for _ in range(8)))


def test_numbers_of_a_nested_call_are_its_own(fresh_pool):
    for outer, inner in Parallel(n_jobs=2)(delayed(nested)() for _ in range(4)):
        assert outer in (0, 1)
        assert inner <= {0, 1}


# ---- warmup, shutdown ----------------------------------------------------------------


def test_warmup_starts_the_workers_of_later_calls(fresh_pool):
    cypar.warmup(n_jobs=3)
    idle, leased = fresh_pool.pids()
    assert (len(idle), leased) == (3, [])
    assert all(worker.ready for worker in fresh_pool._idle)
    pids = Parallel(n_jobs=3)(delayed(os.getpid)() for _ in range(30))
    assert set(pids) <= set(idle)


def test_warmup_twice_and_with_an_initializer(fresh_pool, signals):
    with parallel_config("processes", initializer=begin, initargs=(1, signals)):
        cypar.warmup(n_jobs=2)
        cypar.warmup(n_jobs=2)
        assert len(signals.notes("begun")) == 2
        assert Parallel(n_jobs=2)([delayed(value)()] * 4) == [1] * 4
        assert len(signals.notes("begun")) == 2
    with (
        pytest.raises(InitializerError),
        parallel_config("processes", initializer=fail),
    ):
        cypar.warmup(n_jobs=2)


@pytest.mark.parametrize("backend", ["threading", "sequential", "processes"])
def test_warmup_on_any_backend(fresh_pool, backend):
    cypar.warmup(n_jobs=2, backend=backend)
    assert Parallel(n_jobs=2, backend=backend)([delayed(abs)(-1)] * 3) == [1] * 3


def test_shutdown_ends_all_that_is_idle(fresh_pool):
    cypar.warmup(n_jobs=2)
    pids = [*fresh_pool.pids()[0], fresh_pool.server.pid]
    cypar.shutdown()
    assert fresh_pool.pids() == ([], [])
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids if pid)
    cypar.shutdown()
    assert Parallel(n_jobs=2)([delayed(abs)(-1)] * 3) == [1] * 3


def test_shutdown_while_a_call_runs(fresh_pool):
    generator = Parallel(n_jobs=2, batch_size=1, return_as="generator")(
        delayed(abs)(-i) for i in range(300)
    )
    assert next(generator) == 0
    cypar.shutdown()
    assert list(generator) == list(range(1, 300))


def test_workers_that_were_idle_for_long_are_let_go(fresh_pool, two_workers):
    for worker in fresh_pool._idle:
        worker.idle_since -= 400
    n_descriptors = len(fresh_pool.descriptors())
    pids = set(Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(2)))
    assert not pids & two_workers
    assert len(fresh_pool.descriptors()) <= n_descriptors
