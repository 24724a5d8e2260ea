"""Calls from several threads lease disjoint workers and never wait for each other."""

import os

import pytest

from cypar import Parallel, delayed
from cypar.backends.pool.dispatcher import Dispatcher


@pytest.mark.parametrize("backend", ["processes", "threading"])
@pytest.mark.timeout(30)
def test_four_threads_and_five_calls_each(fresh_pool, backend, in_threads):
    def calls(n_jobs):
        return [
            Parallel(n_jobs=n_jobs, backend=backend)(
                delayed(abs)(-i) for i in range(30)
            )
            for _ in range(5)
        ]

    outs = in_threads(*(lambda n=n: calls(n) for n in (2, 3, 2, 4)))
    assert outs == [[list(range(30))] * 5] * 4


def test_calls_have_workers_of_their_own(fresh_pool, signals, in_threads):
    """Two calls at once, all of whose tasks must meet."""

    def call():
        return Parallel(n_jobs=2)(delayed(signals.meet)("met", 4) for _ in range(2))

    Parallel(n_jobs=4)(delayed(signals.meet)("warm", 4) for _ in range(4))
    first, second = in_threads(call, call)
    assert len({*first, *second}) == 4
    assert os.getpid() not in {*first, *second}


def test_crash_in_one_call_leaves_the_other_alone(fresh_pool, signals, in_threads):
    def crashing():
        with pytest.raises(RuntimeError):
            Parallel(n_jobs=2)([delayed(abs)(1), delayed(os._exit)(1)])
        signals.set("crashed")

    def other():
        return Parallel(n_jobs=2)(delayed(signals.wait)("crashed") for _ in range(4))

    assert in_threads(crashing, other)[1] == [None] * 4


def test_surplus_workers_leave(fresh_pool, in_threads):
    from cypar import cpu_count

    def call():
        return Parallel(n_jobs=2)(delayed(abs)(i) for i in range(20))

    in_threads(*[call] * 6)
    call()
    idle, leased = fresh_pool.pids()
    assert leased == []
    assert len(idle) <= max(cpu_count(), 6) + 1


def test_generators_side_by_side(fresh_pool):
    generators = [
        Parallel(n_jobs=2, return_as="generator")(delayed(abs)(-i) for i in range(50))
        for _ in range(3)
    ]
    for values in zip(*generators, strict=True):
        assert len(set(values)) == 1


def test_a_call_that_waited_for_a_worker_may_be_over(fresh_pool, monkeypatch, signals):
    """Who gives a worker back tells those that wait, one of which has just ended."""
    late = []
    run = Dispatcher.run

    def run_and_note(dispatcher):
        late.append(dispatcher)
        run(dispatcher)

    monkeypatch.setattr(Dispatcher, "run", run_and_note)
    Parallel(n_jobs=2)(delayed(signals.meet)("a", 2) for _ in range(2))
    ended = late.pop()
    ended.waiting = True  # as when the other thread has looked
    release = fresh_pool.release

    def release_to_the_ended(worker):
        fresh_pool._waiting.append(ended)
        release(worker)

    monkeypatch.setattr(fresh_pool, "release", release_to_the_ended)
    assert Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(9)) == list(range(9))
    assert fresh_pool.pids()[1] == []


@pytest.mark.parametrize("name", ["release", "lease"])
def test_ctrl_c_beside_a_lease_keeps_no_worker(fresh_pool, monkeypatch, name):
    original = getattr(fresh_pool, name)

    def interrupted(*args, **options):
        if name == "lease":
            original(*args, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fresh_pool, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(9))
    assert fresh_pool.pids()[1] == []
    assert Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(9)) == list(range(9))
