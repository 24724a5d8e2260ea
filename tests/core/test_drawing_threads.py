"""core/_task_queue: whichever thread draws, the iterator sees one caller at a time."""

import contextvars
import threading

import pytest

from cypar import delayed
from cypar.core._task_queue import END, LATER

var = contextvars.ContextVar("var", default="unset")


def tasks_of(n):
    return [delayed(abs)(i) for i in range(n)]


def indexes(drawn):
    return [index for index, _ in drawn]


def in_thread(function, *args):
    """Run a function in another thread; returns what it returned."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(function(*args)))
    thread.start()
    thread.join()
    return answers[0]


def test_a_second_thread_does_not_wait_for_the_iterator(make_call):
    entered, release = threading.Event(), threading.Event()

    def slow():
        entered.set()
        release.wait()
        yield from tasks_of(1)

    source = make_call(slow()).source
    first = []
    thread = threading.Thread(target=lambda: first.append(source.draw(1)))
    thread.start()
    entered.wait()
    assert source.draw(1) is LATER
    source.fill()
    assert source.drawn == 0
    release.set()
    thread.join()
    assert first == [list(enumerate(tasks_of(1)))]


@pytest.mark.usefixtures("frequent_switches")
def test_racing_threads_draw_each_task_once(make_call):
    inside = []

    def guarded():
        for i in range(2000):
            inside.append(i)
            assert len(inside) == 1
            task = delayed(abs)(i)
            inside.pop()
            yield task

    call = make_call(guarded())
    drawn = [[], []]

    def draw(mine):
        while (tasks := call.source.draw(3)) is not END:
            if tasks is not LATER:
                mine.extend(tasks)

    threads = [threading.Thread(target=draw, args=(mine,)) for mine in drawn]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert call.outcomes.first_error() is None
    assert sorted(indexes(drawn[0] + drawn[1])) == [*range(2000)]
    assert all(mine == sorted(mine, key=lambda t: t[0]) for mine in drawn)


def test_the_iterator_sees_the_callers_context_in_any_thread(make_call):
    token = var.set("of the caller")
    seen = []

    def looks():
        for task in tasks_of(2):
            seen.append(var.get())
            yield task

    source = make_call(looks()).source
    source.draw(1)
    var.reset(token)
    in_thread(source.draw, 1)
    assert seen == ["of the caller"] * 2


def test_the_iterator_sees_what_it_set_in_its_context_in_any_thread(make_call):
    seen = []

    def sets():
        for i, task in enumerate(tasks_of(4)):
            seen.append(var.get())
            var.set(i)
            yield task

    def draw_in_turn():
        source = make_call(sets()).source
        for _ in range(2):
            source.draw(1)
            in_thread(source.draw, 1)

    contextvars.copy_context().run(draw_in_turn)
    assert seen == ["unset", 0, 1, 2]
