"""core/_task_queue, TaskSource: the user's iterator behind a FIFO of bounded size."""

import gc
import weakref
from collections import namedtuple
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cypar import delayed
from cypar.core._task_queue import END, LATER, as_task


def tasks_of(n):
    return [delayed(abs)(i) for i in range(n)]


def indexes(drawn):
    return [index for index, _ in drawn]


# ---- order and window ------------------------------------------------------------


def test_tasks_come_in_the_order_of_the_input(make_call):
    source = make_call(tasks_of(7)).source
    drawn = source.draw(3) + source.draw(3) + source.draw(3)
    assert drawn == list(enumerate(tasks_of(7)))


@pytest.mark.parametrize(
    ("pre_dispatch", "batch_size", "window"), [(1, 1, 1), (3, 1, 3), (2, 5, 10)]
)
def test_window_is_pre_dispatch_times_batch_size(
    make_call, pre_dispatch, batch_size, window
):
    call = make_call(
        map(delayed(abs), count()), pre_dispatch=pre_dispatch, batch_size=batch_size
    )
    call.source.fill()
    assert call.source.window == window
    assert call.source.drawn == call.source.pending == window


def test_one_more_task_fits_per_outcome(make_call):
    call = make_call(tasks_of(5), pre_dispatch=2)
    assert indexes(call.source.draw(5)) == [0, 1]
    assert call.source.draw(5) is LATER
    call.outcomes.put(1, None)
    assert indexes(call.source.draw(5)) == [2]
    assert call.source.draw(5) is LATER


def test_batch_size_zero_counts_single_tasks(make_call):
    call = make_call(tasks_of(9), pre_dispatch=3, batch_size=0)
    assert call.source.window == 3


def test_set_batch_size_changes_the_window(make_call):
    source = make_call(tasks_of(100), pre_dispatch=2).source
    source.set_batch_size(10)
    source.fill()
    assert source.pending == 20
    source.set_batch_size(3)
    assert indexes(source.draw(50)) == [*range(20)]
    assert source.draw(50) is LATER


def test_pre_dispatch_all_draws_the_whole_input(make_call):
    source = make_call(tasks_of(1000)).source
    source.fill()
    assert source.drawn == 1000
    assert source.ended


def test_draw_takes_no_more_from_the_input_than_it_gives(make_call):
    source = make_call(tasks_of(100)).source
    assert len(source.draw(4)) == 4
    assert source.drawn == 4
    assert source.pending == 0


def test_draw_takes_what_was_filled_before_it_draws_more(make_call):
    source = make_call(tasks_of(10), pre_dispatch=5).source
    source.fill()
    assert indexes(source.draw(3)) == [0, 1, 2]
    assert (source.drawn, source.pending) == (5, 2)


def test_end_comes_after_the_last_task(make_call):
    source = make_call(tasks_of(2)).source
    assert not source.ended
    assert len(source.draw(9)) == 2
    assert source.draw(9) is END
    assert source.ended


def test_an_empty_input_ends_at_once(make_call):
    source = make_call([]).source
    source.fill()
    assert source.ended
    assert source.draw(1) is END


def test_markers_print_their_names():
    assert (repr(LATER), repr(END)) == ("LATER", "END")


@given(st.lists(st.tuples(st.integers(1, 90), st.integers(0, 90)), max_size=12))
def test_the_fifo_keeps_its_order_while_it_grows(make_call, steps):
    source = make_call(tasks_of(1000), pre_dispatch=1).source
    outcomes = []
    for grow, take in steps:
        source.set_batch_size(source.window + grow)
        source.fill()
        drawn = source.draw(take)
        if drawn is not LATER:
            outcomes += drawn
    assert outcomes == list(enumerate(tasks_of(len(outcomes))))


# ---- given back ------------------------------------------------------------------


def test_tasks_given_back_are_drawn_first_and_by_index(make_call):
    source = make_call(tasks_of(9), pre_dispatch=9).source
    drawn = source.draw(6)
    source.give_back([drawn[4], drawn[1]])
    source.give_back([drawn[3]])
    assert indexes(source.draw(2)) == [1, 3]
    assert indexes(source.draw(3)) == [4, 6, 7]


def test_a_task_given_back_keeps_its_payload(make_call):
    source = make_call(tasks_of(2)).source
    source.capture = lambda index, task: [index]
    ((_, payload),) = source.draw(1)
    source.give_back([(0, payload)])
    assert source.draw(1)[0][1] is payload


def test_a_task_given_back_after_the_end_is_drawn(make_call):
    source = make_call(tasks_of(1)).source
    drawn = source.draw(1)
    assert source.draw(1) is END
    source.give_back(drawn)
    assert source.draw(1) == drawn


def test_has_task_does_not_ask_the_iterator(make_call):
    source = make_call(tasks_of(3), pre_dispatch=1).source
    assert not source.has_task()
    source.fill()
    assert source.has_task()
    drawn = source.draw(1)
    assert not source.has_task()
    source.give_back(drawn)
    assert source.has_task()


# ---- capture ---------------------------------------------------------------------


def test_each_task_is_captured_right_after_it_is_drawn(make_call):
    edited = {}

    def edits():
        for i in range(3):
            edited["i"] = i
            yield delayed(dict)(edited)

    source = make_call(edits()).source
    source.capture = lambda index, task: (index, dict(task[1][0]))
    source.fill()
    assert source.draw(3) == [(i, (i, {"i": i})) for i in range(3)]


def test_an_error_of_capture_is_the_tasks_error(make_call):
    def capture(index, task):
        if index == 1:
            raise OverflowError("too large")
        return task

    call = make_call(tasks_of(3))
    call.source.capture = capture
    call.source.fill()
    assert list(call.outcomes.errors) == [1]
    assert isinstance(call.outcomes.first_error(), OverflowError)
    assert call.stopping == "abort"
    assert call.source.drawn == 2
    assert call.source.draw(3) is END


# ---- what the iterator may do ------------------------------------------------------


@pytest.mark.parametrize(
    "item",
    [
        5,
        None,
        "abc",
        (abs, (1,)),
        [1, (), {}],
        (abs, 1, {}),
        (abs, (), 3),
        (abs, (), {}, None),
        abs,
    ],
    ids=repr,
)
def test_an_item_that_is_no_task_is_a_type_error(make_call, item):
    call = make_call([*tasks_of(1), item])
    call.source.fill()
    error = call.outcomes.first_error()
    assert isinstance(error, TypeError)
    assert repr(item) in str(error)
    assert f"of type {type(item).__name__}" in str(error)
    assert "delayed(function)(arguments)" in str(error)


def test_what_looks_like_a_task_is_made_one():
    point = namedtuple("point", "f args kwargs")
    for item in ([abs, [1], ()], point(abs, (1,), {}), iter([abs, {1}, []])):
        task = as_task(item)
        assert task == (abs, (1,), {})
        assert [type(part) for part in task[1:]] == [tuple, dict]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, StopIteration])
def test_an_error_of_the_iterator_ends_the_call(make_call, kind):
    def failing():
        yield from tasks_of(2)
        raise kind("of the iterator")

    call = make_call(failing())
    call.source.fill()
    expected = RuntimeError if kind is StopIteration else kind  # PEP 479
    assert isinstance(call.outcomes.first_error(), expected)
    assert call.source.ended
    assert call.source.drawn == 2
    assert call.source.draw(1) is END


def test_the_iterator_is_not_asked_again_after_its_end(make_call):
    class Once:
        asked = 0

        def __iter__(self):
            return self

        def __next__(self):
            self.asked += 1
            raise StopIteration

    once = Once()
    source = make_call(once).source
    for _ in range(3):
        source.fill()
        source.draw(1)
    assert once.asked == 1


def test_the_iterator_is_let_go_at_its_end(make_call):
    tasks = (task for task in tasks_of(2))
    alive = weakref.ref(tasks)
    source = make_call(tasks).source
    del tasks
    source.draw(1)
    assert alive() is not None
    source.fill()
    assert alive() is None


def test_tasks_that_were_never_drawn_die_with_the_call(make_call):
    class Argument:
        pass

    argument = Argument()
    alive = weakref.ref(argument)
    call = make_call([delayed(abs)(argument)] * 100)
    call.source.fill()
    call.source.draw(10)
    del call, argument
    gc.collect()
    assert alive() is None


def test_an_iterator_that_draws_does_not_recurse(make_call):
    seen = []

    def curious():
        for task in tasks_of(3):
            source.fill()
            seen.append(source.draw(1))
            yield task

    source = make_call(curious()).source
    source.fill()
    assert source.drawn == 3
    # a draw inside the iterator gets what the FIFO holds, and asks for no more
    assert seen[0] is LATER
    assert [indexes(drawn) for drawn in seen[1:]] == [[0], [1]]
