"""Results as they come: P2, P3, P56, on every backend."""

import threading
import time

import pytest

from cypar import CyparWarning, Parallel, delayed

MODES = ("generator", "generator_unordered")
MAX_UNREAD = 1_000


@pytest.mark.parametrize("return_as", MODES)
def test_p02_all_results(engine, return_as):
    generator = engine.parallel(return_as=return_as)(
        delayed(abs)(-i) for i in range(2_500)
    )
    assert iter(generator) is iter(generator)
    out = list(generator)
    if return_as == "generator":
        assert out == list(range(2_500))
    assert sorted(out) == list(range(2_500))
    assert list(generator) == []


@pytest.mark.parametrize("return_as", MODES)
def test_p02_empty_input(engine, return_as):
    assert list(engine.parallel(return_as=return_as)([])) == []


def test_p02_bad_value():
    with pytest.raises(ValueError, match="generator_unordered"):
        Parallel(return_as="tuple")


def test_p02_result_comes_before_later_tasks_end(parallel_engine, signals):
    generator = parallel_engine.parallel(return_as="generator")(
        [delayed(abs)(-1), delayed(signals.wait)("go")]
    )
    assert next(generator) == 1
    signals.set("go")
    assert list(generator) == [None]


def test_p02_unordered_does_not_wait_for_the_first(parallel_engine, signals):
    generator = parallel_engine.parallel(return_as="generator_unordered")(
        [delayed(signals.wait)("go"), delayed(abs)(-1)]
    )
    assert next(generator) == 1
    signals.set("go")
    assert list(generator) == [None]


@pytest.mark.parametrize("return_as", MODES)
def test_p02_unread_results_are_bounded(engine, return_as, signals):
    n = 3 * MAX_UNREAD
    generator = engine.parallel(return_as=return_as)(
        delayed(signals.note)("run", i) for i in range(n)
    )
    next(generator)
    assert settled(signals) <= MAX_UNREAD + 1
    for _ in range(500):
        next(generator)
    assert settled(signals) <= MAX_UNREAD + 501
    assert len(list(generator)) == n - 501
    assert len(signals.notes("run")) == n


def test_p02_bound_holds_behind_a_slow_head(engine, signals):
    n = 3 * MAX_UNREAD

    def tasks():
        yield delayed(signals.wait)("go")
        for i in range(n):
            yield delayed(signals.note)("run", i)

    generator = engine.parallel(return_as="generator", pre_dispatch="all")(tasks())
    assert settled(signals) <= MAX_UNREAD
    signals.set("go")
    assert len(list(generator)) == n + 1


def settled(signals):
    """Return how many tasks have run once no more of them do."""
    counts = [-1]
    while counts[-8:].count(counts[-1]) < 8 or counts[-1] <= 0:
        counts.append(len(signals.notes("run")))
        assert len(counts) < 1_000
        time.sleep(0.01)
    return counts[-1]


@pytest.mark.parametrize("return_as", MODES)
def test_p02_error_comes_in_its_place(engine, return_as):
    def task(i):
        if i == 5:
            raise KeyError(i)
        return i

    generator = engine.parallel(return_as=return_as, batch_size=1)(
        delayed(task)(i) for i in range(10)
    )
    out = []
    with pytest.raises(KeyError):
        out.extend(generator)
    assert set(out) <= set(range(10)) - {5}
    assert list(generator) == []


@pytest.mark.parametrize("return_as", MODES)
def test_p03_dropping_warns_and_cancels(parallel_engine, return_as, signals):
    generator = parallel_engine.parallel(return_as=return_as, batch_size=1)(
        delayed(signals.note)("run", i) for i in range(100_000)
    )
    next(generator)
    with pytest.warns(CyparWarning, match="dropped"):
        del generator
    ran = settled(signals)
    assert ran <= MAX_UNREAD + 1


@pytest.mark.parametrize("return_as", MODES)
def test_p03_close_is_silent_and_cancels(engine, return_as, signals):
    drawn = []

    def tasks():
        for i in range(100_000):
            drawn.append(i)
            yield delayed(abs)(i)

    parallel = engine.parallel(return_as=return_as)
    generator = parallel(tasks())
    next(generator)
    generator.close()
    assert list(generator) == []
    assert len(drawn) < 50_000
    assert sorted(parallel([delayed(abs)(-1), delayed(abs)(-2)])) == [1, 2]


def test_p03_close_and_call_again_at_once(parallel_engine):
    """The end of the old call does not get into the way of the new one."""
    parallel = parallel_engine.parallel(return_as="generator")
    for _ in range(20):
        generator = parallel(delayed(abs)(-i) for i in range(1_000))
        assert next(generator) == 0
        generator.close()
        assert list(parallel(delayed(abs)(-i) for i in range(5))) == [0, 1, 2, 3, 4]


def test_p56_second_call_while_running(engine):
    parallel = engine.parallel(return_as="generator")
    generator = parallel(delayed(abs)(i) for i in range(100))
    next(generator)
    with pytest.raises(RuntimeError, match="already running"):
        parallel([delayed(abs)(1)])
    generator.close()
    assert list(parallel([delayed(abs)(-1)])) == [1]


def test_p56_second_call_from_the_input(engine):
    parallel = engine.parallel()

    def tasks():
        parallel([delayed(abs)(1)])
        yield delayed(abs)(2)

    with pytest.raises(RuntimeError, match="already running"):
        parallel(tasks())
    assert parallel([delayed(abs)(-1)]) == [1]


def test_p56_many_objects_from_many_threads(engine):
    outs, errors = {}, []

    def run(k):
        try:
            outs[k] = engine.parallel()(delayed(abs)(-i) for i in range(50))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert outs == {k: list(range(50)) for k in range(4)}


def test_p56_a_generator_feeds_another_call(engine):
    """The input of one call is the output of another, which is still running."""
    first = engine.parallel(return_as="generator")(delayed(abs)(-i) for i in range(99))
    out = engine.parallel()(delayed(pow)(value, 2) for value in first)
    assert out == [i**2 for i in range(99)]


def test_p02_read_in_another_thread(engine):
    generator = engine.parallel(return_as="generator")(
        delayed(abs)(-i) for i in range(50)
    )
    out = []
    thread = threading.Thread(target=lambda: out.extend(generator))
    thread.start()
    thread.join()
    assert out == list(range(50))
