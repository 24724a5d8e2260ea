"""core/_task_queue: what comes after the end of a call, and what it lets go."""

import gc
import threading
import weakref
from functools import partial

import pytest

from cypar import delayed
from cypar.core._helper_threads import Parker
from cypar.core._task_queue import END, LIST, ORDERED, UNORDERED
from cypar.core._worker_loop import work

MODES = pytest.mark.parametrize(
    "mode", [LIST, ORDERED, UNORDERED], ids=["list", "ordered", "unordered"]
)
GENERATORS = pytest.mark.parametrize(
    "mode", [ORDERED, UNORDERED], ids=["ordered", "unordered"]
)


class Thing:
    """Something with weak references."""


def last(kept, *args):
    return args[-1] if args else None


@pytest.fixture
def no_gc():
    """A call is a reference cycle: nothing may wait for its collection."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# ---- late outcomes ---------------------------------------------------------------


@MODES
def test_what_comes_after_the_end_is_dropped(started, mode):
    call = started(3, mode)
    assert not call.over
    call.finish()
    assert call.over
    call.outcomes.put(0, "late")
    call.outcomes.put_error(1, ValueError("late"))
    assert (call.outcomes.finished, call.outcomes.dropped) == (0, 2)
    assert call.outcomes.first_error() is None


@MODES
def test_a_closed_call_takes_nothing(started, mode):
    call = started(3, mode)
    call.outcomes.put(0, "in time")
    call.stop()
    call.close()
    call.outcomes.put(1, "late")
    call.outcomes.put_error(2, ValueError("late"))
    assert (call.outcomes.finished, call.outcomes.dropped) == (1, 2)
    assert call.outcomes.first_error() is None


def test_results_that_were_taken_are_not_touched(started):
    call = started(2)
    call.outcomes.put(0, "a")
    call.finish()
    results = call.outcomes.take_results()
    call.outcomes.put(1, "late")
    call.outcomes.put_error(1, ValueError("late"))
    assert results[0] == "a"
    assert "late" not in results
    assert call.outcomes.take_results() == []


@GENERATORS
def test_results_are_read_after_the_end(started, mode):
    call = started(3, mode)
    call.outcomes.put(0, "a")
    call.outcomes.put(1, "b")
    call.finish()
    assert [call.outcomes.take(), call.outcomes.take()] == ["a", "b"]
    with pytest.raises(StopIteration):
        call.outcomes.take()


# ---- close -----------------------------------------------------------------------


def test_nothing_is_drawn_from_a_closed_call(make_call):
    call = make_call([delayed(abs)(i) for i in range(9)], pre_dispatch=5)
    call.source.fill()
    call.source.give_back(call.source.draw(2))
    call.stop()
    call.close()
    assert (call.source.pending, call.source.has_task()) == (0, False)
    assert call.source.draw(9) is END


def test_close_may_be_repeated(started):
    call = started(1)
    for _ in range(2):
        call.close()


@pytest.mark.usefixtures("no_gc")
@MODES
def test_a_closed_call_keeps_nothing_of_the_users_alive(make_call, mode):
    references = []

    def thing():
        made = Thing()
        references.append(weakref.ref(made))
        return made

    def tasks():
        kept = thing()  # by the generator
        for _ in range(9):
            yield delayed(abs)(thing())
        del kept

    def use(call):
        call.source.capture = partial(last, thing())
        call.outcomes.hook = partial(last, thing())
        call.recruit = partial(last, thing())
        call.explain = partial(last, thing())
        call.on_wake(partial(last, thing()))
        drawn = call.source.draw(4)
        call.source.give_back(drawn[2:])
        call.outcomes.put(0, thing())
        call.outcomes.put(1, thing())

    call = make_call(tasks(), mode, pre_dispatch=6)
    use(call)
    assert call.source.pending > 0
    call.stop()
    call.finish()
    call.outcomes.take_results()
    call.close()
    assert len(references) > 10
    assert [ref() for ref in references if ref() is not None] == []
    assert call.task_context is None


@pytest.mark.usefixtures("no_gc")
@MODES
def test_an_error_is_forgotten_once_it_is_taken(started, mode):
    call = started(3, mode)
    error = ValueError(Thing())
    reference = weakref.ref(error.args[0])
    call.outcomes.put_error(1, error)
    call.finish()
    del error
    call.outcomes.take_error()
    call.close()
    assert reference() is None


def test_a_worker_that_comes_too_late_does_nothing(make_call):
    ran = []
    call = make_call([delayed(ran.append)(1)])
    call.source.fill()
    call.close()
    work(call, Parker())
    assert ran == []


def test_a_worker_ends_with_its_task_when_the_call_was_closed(make_call):
    entered, release = threading.Event(), threading.Event()
    ran = []

    def block():
        entered.set()
        release.wait()

    call = make_call([delayed(block)(), *(delayed(ran.append)(i) for i in range(9))])
    call.source.fill()
    thread = threading.Thread(target=work, args=(call, Parker()))
    thread.start()
    entered.wait()
    call.stop()
    call.finish()
    call.close()
    release.set()
    thread.join()
    assert ran == []
    assert call.outcomes.dropped == 1


def test_a_call_may_be_closed_while_its_input_is_asked(make_call):
    entered, release = threading.Event(), threading.Event()

    def slow():
        entered.set()
        release.wait()
        yield delayed(abs)(1)

    call = make_call(slow())
    thread = threading.Thread(target=call.source.fill)
    thread.start()
    entered.wait()
    call.stop()
    call.close()
    release.set()
    thread.join()
    assert call.source.draw(1) is END
