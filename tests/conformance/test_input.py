"""S35, S38, S41, P51: how the input is drawn, and what is done when it fails."""

import gc
import itertools

import pytest

from cypar import cpu_count, delayed


class Producer:
    """Tasks that note themselves; counts how far the input is ahead of them."""

    def __init__(self, signals, n):
        self.signals = signals
        self.n = n
        self.most_ahead = 0
        self.finished_at_draw = []

    def __iter__(self):
        for i in range(self.n):
            # A task notes itself before its outcome is known: this never counts more
            # tasks as unfinished than the window does.
            n_finished = len(self.signals.notes("run"))
            self.finished_at_draw.append(n_finished)
            self.most_ahead = max(self.most_ahead, i + 1 - n_finished)
            yield delayed(self.signals.note)("run", i)


@pytest.fixture
def produce(signals):
    return lambda n: Producer(signals, n)


def test_s35_default_is_twice_the_jobs(parallel_engine, produce):
    producer = produce(60)
    parallel_engine.parallel(3, batch_size=1)(producer)
    assert producer.most_ahead == 6
    assert producer.finished_at_draw[:6] == [0] * 6


def test_s35_expression_takes_the_effective_count(parallel_engine, produce):
    producer = produce(20)
    parallel = parallel_engine.parallel(-1, pre_dispatch="n_jobs", batch_size=1)
    parallel(producer)
    assert producer.most_ahead == cpu_count()


@pytest.mark.parametrize(("pre_dispatch", "window"), [(2.9, 2), ("5 // 2 + 1", 3)])
def test_s35_values_are_truncated(parallel_engine, produce, pre_dispatch, window):
    producer = produce(30)
    parallel_engine.parallel(pre_dispatch=pre_dispatch, batch_size=1)(producer)
    assert producer.most_ahead == window


def test_s35_auto_batches_keep_an_explicit_window_at_first(parallel_engine, produce):
    # they may grow, and the window with them, after 4 * pre_dispatch results
    producer = produce(16)
    parallel_engine.parallel(pre_dispatch=4)(producer)
    assert producer.most_ahead <= 4


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_s35_window_of_generators(parallel_engine, produce, return_as):
    producer = produce(40)
    parallel = parallel_engine.parallel(
        pre_dispatch=4, batch_size=1, return_as=return_as
    )
    assert len(list(parallel(producer))) == 40
    assert producer.most_ahead == 4


def test_s41_input_is_advanced_by_one_thread_at_a_time(engine):
    class Input:
        busy = False
        numbers = itertools.count()

        def __iter__(self):
            return self

        def __next__(self):
            assert not self.busy
            self.busy = True
            sum(range(300))  # long enough for another thread to come
            i = next(self.numbers)
            self.busy = False
            if i == 500:
                raise StopIteration
            return delayed(abs)(-i)

    for _ in range(3):
        Input.numbers = itertools.count()
        assert engine.parallel(3)(Input()) == list(range(500))


def test_p51_input_is_let_go_after_an_error(engine):
    """A generator that holds a file or a lock is not kept waiting for its end."""
    closed = []

    def tasks():
        try:
            for i in itertools.count():
                yield delayed(divmod)(1, 20 - i)
        finally:
            closed.append(True)

    with pytest.raises(ZeroDivisionError):
        engine.parallel()(tasks())
    gc.collect()
    assert closed == [True]


@pytest.mark.parametrize("after", [0, 1, 50])
@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_p51_object_is_usable_after_an_error_of_the_input(engine, return_as, after):
    def tasks():
        for i in range(after):
            yield delayed(abs)(-i)
        raise LookupError("no more input")

    parallel = engine.parallel(return_as=return_as)
    with pytest.raises(LookupError, match="no more input") as caught:
        list(parallel(tasks()))
    assert caught.value.__cause__ is None
    assert list(parallel([delayed(abs)(-1)])) == [1]
