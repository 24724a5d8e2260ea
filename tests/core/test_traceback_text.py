"""core/traceback_text: what a reader sees of a failed task, and where it is put."""

import builtins
import heapq
import math
import os
import re
import sys
import textwrap

import numpy as np
import pytest

from cypar.core import traceback_text
from cypar.core.errors import TaskTraceback
from cypar.core.traceback_text import (
    attach_task_traceback,
    describe_call,
    format_task_traceback,
    safe_repr,
)


def text_of(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except BaseException as exc:
        return format_task_traceback(exc, function, args, kwargs)
    raise AssertionError(f"{function} did not fail")


def divide(x, *rest, by=1, **options):
    before = 1
    return x / by + before


# ---- the layout ---------------------------------------------------------------


def test_parameter_values_error_type_date_pid_and_python_are_shown():
    """S65, with the example of the reference text."""
    lines = text_of(heapq.nlargest, 2, 3).splitlines()
    assert lines[0] == lines[2] == "-" * 75
    assert re.fullmatch(r"TypeError +\w{3} \w{3} +\d+ \d\d:\d\d:\d\d \d{4}", lines[3])
    assert len(lines[3]) == 75
    version = "Python {}.{}.{}".format(*sys.version_info)
    ending = rf"{re.escape(version)}: {re.escape(sys.executable)}"
    assert re.fullmatch(rf"PID: {os.getpid()} +{ending}", lines[4])
    assert lines[5] == "." * 75
    assert lines[6].endswith("heapq.py in nlargest(n=2, iterable=3, key=None)")
    assert lines[-2] == "TypeError: 'int' object is not iterable"
    assert lines[-1] == "_" * 75


def test_the_failing_line_is_marked_with_five_lines_around_it():
    lines = text_of(heapq.nlargest, 2, 3).splitlines()[7:18]
    numbers = [int(re.match(r"(?:-->)? *(\d+)", line)[1]) for line in lines]
    assert numbers == list(range(numbers[5] - 5, numbers[5] + 6))
    assert [line for line in lines if line.startswith("--> ")] == [lines[5]]
    assert lines[5].endswith("it = iter(iterable)")


def test_frames_begin_at_the_task():
    text = text_of(divide, 1, by=0)
    assert "text_of" not in text
    assert "in divide(x=1, rest=(), by=0, options={})" in text


@pytest.mark.parametrize(
    ("function", "args", "expected"),
    [
        (math.sqrt, ("a",), "math in sqrt(x='a')"),
        (divmod, (1, 0), "builtins in divmod(x=1, y=0)"),
        (int, ("a",), "builtins in int(argument 0='a')"),
        (divide, (), "in divide()"),  # a call that does not fit
    ],
)
def test_a_call_without_a_frame_shows_its_arguments(function, args, expected):
    assert expected in text_of(function, *args)


def test_frames_of_cypar_are_left_out():
    code = compile("def run(f): return f()", "inner.py", "exec")
    namespace = {"__name__": "cypar.core.inner"}
    exec(code, namespace)

    def task():
        return namespace["run"](lambda: 1 / 0)

    text = text_of(task)
    assert not re.search("^inner.py in", text, re.MULTILINE)
    assert "in task()" in text
    assert "in <lambda>()" in text


def test_missing_source_is_said():
    namespace = {}
    exec("def f(x):\n  return x + 1", namespace)
    assert "<string> in f(x='a')\n--> 2 (source not available)" in text_of(
        namespace["f"], "a"
    )


def test_endless_recursion_is_shortened():
    def again(n):
        return again(n + 1)

    text = text_of(again, 0)
    assert len(text) < 50_000
    assert re.search(r"\.\.\. \d+ more calls \.\.\.", text)


def test_chained_exceptions_are_shown_oldest_first():
    def chained():
        try:
            divide(1, by=0)
        except ZeroDivisionError as error:
            raise KeyError("outer") from error

    text = text_of(chained)
    assert text.index("ZeroDivisionError: division") < text.index("direct cause")
    assert text.index("direct cause") < text.index("KeyError: 'outer'")


def test_members_of_a_group_are_named():
    group = getattr(builtins, "ExceptionGroup", None)
    if group is None:
        pytest.skip("exception groups came with Python 3.11")

    def fail():
        raise group("both", [ValueError("one"), KeyError("two")])

    assert "  + ValueError: one\n  + KeyError: 'two'" in text_of(fail)


# ---- values -------------------------------------------------------------------


def test_values_are_cut_at_200_characters():
    for value in (
        "a" * 10**6,
        10**1000,
        [["x" * 50] * 50] * 50,
        {i: i for i in range(99)},
    ):
        assert len(safe_repr(value)) <= 200


class BadRepr:
    def __init__(self, error):
        self.error = error

    def __repr__(self):
        raise self.error


@pytest.mark.parametrize("error", [ValueError(), SystemExit(), RecursionError()])
def test_failing_reprs_are_caught(error):
    name = type(error).__name__
    assert safe_repr(BadRepr(error)) == f"<BadRepr object, repr() raised {name}>"
    assert f"repr() raised {name}>" in text_of(divide, BadRepr(error))


class Endless(list):
    """A list whose elements must not be printed one by one."""

    def __repr__(self):
        raise AssertionError("the whole repr was computed")


def test_large_things_are_described_by_their_size():
    assert safe_repr(np.zeros((1000, 3))) == "<ndarray shape=(1000, 3), dtype=float64>"
    assert safe_repr(np.arange(3)) == "array([0, 1, 2])"
    assert safe_repr(Endless(range(1000))) == "<Endless of length 1000>"
    assert safe_repr(b"1" * 1000) == "<bytes of length 1000>"


class Unordered:
    def __hash__(self):
        return 1

    def __lt__(self, other):
        raise AssertionError("the keys were sorted")

    def __repr__(self):
        return "u"


def test_dicts_and_sets_are_not_sorted():
    assert safe_repr({Unordered(): 1, Unordered(): 2}) == "{u: 1, u: 2}"
    assert safe_repr({Unordered()}) == "{u}"
    assert safe_repr(frozenset(range(20))).startswith("frozenset({0, 1, ")
    assert safe_repr(set()) == "set()"


def test_describe_call():
    call = describe_call(divide, (1, 2), {"by": 3, "k": 4})
    assert call == "divide(x=1, rest=(2,), by=3, options={'k': 4})"


def test_formatting_never_raises():
    class Hostile(Exception):
        def __getattribute__(self, name):
            raise RuntimeError("no")

    for exc in (Hostile(), ValueError(BadRepr(ValueError()))):
        assert isinstance(format_task_traceback(exc, divide, (1,), {}), str)


def test_text_is_bounded():
    text = format_task_traceback(ValueError("x" * 10**7))
    assert len(text) <= 2 * traceback_text.MAX_MESSAGE


def test_import_is_light(run_python):
    program = (
        "import sys; before = set(sys.modules)\n"
        "import cypar.core.traceback_text; print(*set(sys.modules) - before)"
    )
    loaded = set(run_python("-c", program).stdout.split())
    assert not loaded & {"inspect", "linecache", "traceback", "re", "numpy"}


# ---- where the text goes ------------------------------------------------------


def chain(*links):
    """Build exceptions from 'cause', 'context' and 'hidden' links; return them."""
    exceptions = [ValueError(0)]
    for number, link in enumerate(links, 1):
        following = KeyError(number)
        if link == "cause":
            exceptions[-1].__cause__ = following
        else:
            exceptions[-1].__context__ = following
            exceptions[-1].__suppress_context__ = link == "hidden"
        exceptions.append(following)
    return exceptions


@pytest.mark.parametrize(
    ("links", "end"),
    [
        ((), 0),
        (("cause",), 1),
        (("context",), 1),
        (("cause", "context", "cause"), 3),
        (("hidden",), 0),  # raise ... from None
        (("cause", "hidden"), 1),
    ],
)
def test_text_is_put_at_the_end_of_the_displayed_chain(links, end):
    exceptions = chain(*links)
    before = [(e.__cause__, e.__context__) for e in exceptions]
    attach_task_traceback(exceptions[0], "text")
    last = exceptions[end]
    assert isinstance(last.__cause__, TaskTraceback)
    assert str(last.__cause__) == "\ntext"
    after = [(e.__cause__, e.__context__) for e in exceptions]
    before[end] = (last.__cause__, before[end][1])
    assert after == before


def test_endless_chain_gets_a_note():
    first, second = ValueError(1), ValueError(2)
    first.__cause__ = second
    second.__context__ = first
    attach_task_traceback(first, "text")
    assert first.__notes__ == ["text"]
    assert first.__cause__ is second
    assert second.__cause__ is None


def test_exception_raised_again_and_again_keeps_few_texts():
    exc = ValueError()
    for number in range(10):
        attach_task_traceback(exc, str(number))
    texts = []
    while exc.__cause__ is not None:
        exc = exc.__cause__
        texts.append(str(exc).strip())
    assert texts == ["0", "1", "9"]


def test_text_is_printed_with_the_exception(run_script):
    program = textwrap.dedent(
        """
        from cypar.core.traceback_text import attach_task_traceback
        exc = ValueError("mine")
        attach_task_traceback(exc, "text of the task")
        raise exc
        """
    )
    error = run_script(program, returncode=1).stderr
    assert "text of the task" in error
    assert error.rstrip().endswith("ValueError: mine")
