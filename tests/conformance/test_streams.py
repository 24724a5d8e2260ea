"""P02, P03, P56: generators beside errors, large results, each other and threads."""

import itertools
import threading

import pytest

from cypar import delayed

BOTH = pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
MAX_UNREAD_BYTES = 64 << 20


def square(x):
    return x * x


@BOTH
def test_p02_stop_iteration_of_a_task_is_no_end_of_results(engine, return_as):
    """As in any generator, it must not pass for the regular end."""

    def task(i):
        if i == 3:
            next(iter(()))
        return i

    results = engine.parallel(return_as=return_as)(delayed(task)(i) for i in range(6))
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(results)


@pytest.mark.slow
@BOTH
def test_p02_unread_bytes_are_bounded(parallel_engine, return_as, signals):
    """Of large results, far fewer than 1,000 wait unread."""
    size, n = 4 << 20, 100

    def task(i):
        signals.note("run", i)
        return bytes(size)

    results = parallel_engine.parallel(return_as=return_as)(
        delayed(task)(i) for i in range(n)
    )
    n_run = settled(signals)
    assert sum(map(len, results)) == n * size
    # what was dispatched when the bound was reached comes on top
    assert n_run * size <= 2 * MAX_UNREAD_BYTES


def settled(signals):
    """Return how many tasks have run once no more of them do."""
    never = threading.Event()
    before = -1
    while before < (now := len(signals.notes("run"))):
        before = now
        never.wait(0.3)
    return now


@BOTH
def test_p02_endless_input(engine, return_as):
    results = engine.parallel(return_as=return_as)(
        delayed(square)(i) for i in itertools.count()
    )
    taken = list(itertools.islice(results, 5000))
    results.close()
    assert len(set(taken)) == 5000
    if return_as == "generator":
        assert taken == [i * i for i in range(5000)]


@BOTH
def test_p03_next_call_right_after_closing(engine, return_as):
    """What a closed generator leaves behind does not reach into the next call."""
    parallel = engine.parallel(return_as=return_as)
    for _ in range(5):
        results = parallel(delayed(square)(i) for i in itertools.count())
        next(results)
        results.close()
        results.close()
        assert next(results, "over") == "over"
        assert sorted(parallel(delayed(square)(i) for i in range(4))) == [0, 1, 4, 9]


def test_p03_closing_in_another_thread_ends_the_wait(parallel_engine, signals):
    def task():
        signals.set("started")
        signals.wait("end")

    results = parallel_engine.parallel(return_as="generator")([delayed(task)()])

    def close():
        signals.wait("started")
        results.close()

    thread = threading.Thread(target=close)
    thread.start()
    try:
        assert list(results) == []
    finally:
        signals.set("end")
        thread.join()


def test_p56_generators_in_turns(engine):
    first = engine.parallel(return_as="generator")(
        delayed(square)(i) for i in range(300)
    )
    second = engine.parallel(return_as="generator_unordered")(
        delayed(square)(-i) for i in range(300)
    )
    pairs = list(zip(first, second, strict=True))
    assert [a for a, _ in pairs] == [i * i for i in range(300)]
    assert sorted(b for _, b in pairs) == [i * i for i in range(300)]


def test_p56_input_that_calls_another_parallel(engine):
    other = engine.parallel() if engine.name != "custom" else None

    def tasks():
        for n in range(10):
            values = [square(i) for i in range(n)]
            if other is not None:  # a custom object serves one call at a time
                values = other(delayed(square)(i) for i in range(n))
            yield delayed(sum)(values)

    expected = [sum(i * i for i in range(n)) for n in range(10)]
    assert engine.parallel()(tasks()) == expected


def test_p56_results_read_by_many_threads(parallel_engine):
    results = parallel_engine.parallel(return_as="generator")(
        delayed(square)(i) for i in range(1000)
    )
    taken = [[] for _ in range(4)]
    threads = [
        threading.Thread(target=place.extend, args=(results,)) for place in taken
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(itertools.chain(*taken)) == [i * i for i in range(1000)]
    assert all(place == sorted(place) for place in taken)
