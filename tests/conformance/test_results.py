"""Calls and results: S1-S7, S41's laziness, on every backend."""

import functools
import inspect
from math import modf, sqrt

import pytest

from cypar import Parallel, delayed


def spell(first, *rest, last="-", **more):
    return first, rest, last, sorted(more.items())


@pytest.mark.parametrize("n_jobs", [1, 2, -1])
def test_s01_results_in_the_order_of_the_input(engine, n_jobs):
    out = engine.parallel(n_jobs)(delayed(sqrt)(i**2) for i in range(10))
    assert out == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    assert type(out) is list


def test_s01_many_tasks(engine):
    assert engine.parallel()(delayed(abs)(-i) for i in range(3_000)) == list(
        range(3000)
    )


def test_s02_delayed_gives_the_plain_tuple():
    task = delayed(spell)(1, 2, last=3)
    assert task == (spell, (1, 2), {"last": 3})
    assert type(task) is tuple
    assert delayed(spell).__name__ == "spell"


def test_s02_delayed_wraps_what_functools_cannot(engine):
    partial = functools.partial(spell, 1)
    assert engine.parallel()(delayed(partial)(i) for i in (1, 2)) == [
        (1, (1,), "-", []),
        (1, (2,), "-", []),
    ]


def test_s02_tuples_made_by_hand(engine):
    tasks = [(abs, (-1,), {}), (pow, (2, 5), {}), (int, ("ff",), {"base": 16})]
    assert engine.parallel()(tasks) == [1, 32, 255]


def test_s02_lists_in_place_of_tuples(engine):
    assert engine.parallel()([[abs, [-1], {}], (pow, [2, 5], {})]) == [1, 32]


@pytest.mark.parametrize("item", [3, abs, (abs, (1,)), [1, (2,), {}], None])
def test_s02_what_is_no_task_is_refused(engine, item):
    with pytest.raises(TypeError, match="delayed"):
        engine.parallel()([delayed(abs)(1), item])


def test_s03_delayed_takes_check_pickle():
    assert delayed(abs, check_pickle=None)(-1) == (abs, (-1,), {})
    assert delayed(abs, None)(-1) == (abs, (-1,), {})


@pytest.mark.parametrize("empty", [[], (), iter([]), {}.keys()])
def test_s04_empty_input(engine, empty):
    assert engine.parallel()(empty) == []


def test_s04_exhausted_generator(engine):
    tasks = (delayed(abs)(i) for i in range(2))
    assert engine.parallel()(tasks) == [0, 1]
    assert engine.parallel()(tasks) == []


def as_values(tasks):
    return dict(enumerate(tasks)).values()


@pytest.mark.parametrize("make", [list, tuple, iter, as_values])
def test_s04_any_iterable(engine, make):
    tasks = make([delayed(abs)(-i) for i in range(5)])
    assert engine.parallel()(tasks) == [0, 1, 2, 3, 4]


def test_s04_what_is_no_iterable(engine):
    with pytest.raises(TypeError):
        engine.parallel()(3)


def test_s04_input_is_drawn_lazily(engine, signals):
    """The producer is never further ahead of the tasks than the window."""
    ahead = []

    def producer():
        for i in range(40):
            ahead.append(i - len(signals.notes("run")))
            yield delayed(signals.note)("run", i)

    engine.parallel(pre_dispatch=4, batch_size=1)(producer())
    assert len(signals.notes("run")) == 40
    assert max(ahead) < 4


def test_s05_zip_turns_results_around(engine):
    r = engine.parallel()(delayed(modf)(i / 2.0) for i in range(10))
    res, i = zip(*r, strict=True)
    assert res == (0.0, 0.5, 0.0, 0.5, 0.0, 0.5, 0.0, 0.5, 0.0, 0.5)
    assert i == (0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0)


def test_s06_constructor():
    parameters = inspect.signature(Parallel.__init__).parameters
    known = {
        "n_jobs": None,
        "backend": None,
        "verbose": 0,
        "timeout": None,
        "pre_dispatch": "2 * n_jobs",
        "batch_size": "auto",
        "temp_folder": None,
        "max_nbytes": "1M",
        "mmap_mode": "r",
        "prefer": None,
        "require": None,
    }
    names = list(parameters)[1:]
    assert names[: len(known)] == list(known)
    for name, default in known.items():
        assert parameters[name].default == default
        assert parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    for name in names[len(known) :]:
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY


def test_s07_keyword_arguments_travel(engine):
    out = engine.parallel()(
        delayed(spell)(i, i + 1, last=i, other=i, more=2) for i in range(3)
    )
    assert out == [(i, (i + 1,), i, [("more", 2), ("other", i)]) for i in range(3)]


def test_s07_results_of_all_kinds(engine):
    values = [None, True, b"x" * 100_000, "ä" * 3, {"a": [1]}, 2**100, (), ValueError]
    assert engine.parallel()(delayed(_same)(value) for value in values) == values


def _same(value):
    return value
