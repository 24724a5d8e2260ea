"""TaskError: what stands in the place of a failed task; and labels of exceptions."""

import pickle
import threading

import pytest

from cypar import CyparError, RemoteError, TaskError
from cypar.core.errors import Completed, attach_completed, label
from cypar.core.traceback_text import attach_task_traceback


class Two(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a}{b}")


def make(exception, **options):
    return TaskError(3, "exception", exception, "f", "x=1", **options)


def test_it_is_false_and_an_exception_with_the_cause():
    cause = ValueError("bad")
    error = make(cause)
    assert not error
    assert isinstance(error, CyparError)
    assert isinstance(error, RuntimeError)
    assert error.__cause__ is error.exception is cause
    with pytest.raises(TaskError, match=r"task 3, f\(x=1\): ValueError: bad"):
        raise error


def test_its_repr_is_short():
    assert repr(make(ValueError("bad"))) == (
        "TaskError(index=3, kind='exception', f(x=1), ValueError)"
    )
    assert len(str(make(ValueError("x" * 10**6)))) < 2000
    nameless = TaskError(0, "crash", ValueError())
    assert "its function()" in repr(nameless)


def test_a_hostile_str_does_no_harm():
    class Hostile(Exception):
        def __str__(self):
            raise KeyError

    assert "str() raised KeyError" in str(make(Hostile()))


def test_pickling_keeps_everything():
    exc = ValueError("bad")
    attach_task_traceback(exc, "the text")
    error = make(exc, attempts=2)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is TaskError
    assert not back
    assert type(back.exception) is ValueError
    assert back.exception.args == ("bad",)
    fields = ("index", "kind", "function", "arguments", "attempts", "traceback")
    assert [getattr(back, name) for name in fields] == [
        getattr(error, name) for name in fields
    ]
    assert "the text" in back.traceback
    again = pickle.loads(pickle.dumps(back))
    assert again.traceback == back.traceback


def with_a_lock():
    exc = ValueError("bad")
    exc.lock = threading.Lock()
    return exc


@pytest.mark.parametrize("exc", [Two(1, 2), with_a_lock()], ids=["arguments", "lock"])
def test_pickling_with_an_exception_that_cannot_be_pickled(exc):
    back = pickle.loads(pickle.dumps(make(exc)))
    assert type(back.exception) is RemoteError
    assert type(exc).__name__ in back.exception.type_name
    assert str(exc) in str(back.exception)


def test_traceback_of_a_chain_without_one():
    exc = ValueError()
    exc.__context__ = other = KeyError()
    other.__context__ = exc  # cycles are allowed
    assert make(exc).traceback == ""


def test_labels_are_those_of_the_last_call():
    exc = ValueError()
    label(exc, 3, "inner", "x=1")
    label(exc, 5)
    assert (exc.task_index, exc.task_function, exc.task_arguments) == (
        5,
        "inner",
        "x=1",
    )


def test_completed_is_replaced_if_it_is_ours_only():
    exc = ValueError()
    attach_completed(exc, {1: "a"})
    attach_completed(exc, {2: "b"})
    assert exc.completed == {2: "b"}
    assert type(exc.completed) is Completed
    exc.completed = {}
    attach_completed(exc, {2: "b"})
    assert exc.completed == {}


def test_an_attribute_that_raises_does_no_harm():
    class Odd(Exception):
        @property
        def completed(self):
            raise OSError

    attach_completed(Odd(), {})
