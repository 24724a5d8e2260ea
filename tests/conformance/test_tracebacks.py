"""S65: the listing of a failed task, line by line."""

import os
import re
import sys
import traceback
from heapq import nlargest

import pytest

from cypar import TaskTraceback, delayed

RULER = "-" * 75


def fail(engine, task, **options):
    """Return the error of a call of one task."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        list(engine.parallel(**options)([task]))
    return caught.value


def listing(error):
    """Return the text at the end of the cause chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    assert type(error) is TaskTraceback
    return str(error)


def printed(error):
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def test_s65_listing(parallel_engine):
    error = fail(parallel_engine, delayed(nlargest)(2, 3))
    lines = [line.rstrip() for line in listing(error).splitlines() if line]
    assert lines[0] == lines[2] == RULER
    assert lines[1] in ("Sub-process traceback:", "Task traceback:")
    date = r"\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}"
    assert re.fullmatch(rf"TypeError {{10,}}{date}", lines[3])
    version = re.escape(".".join(map(str, sys.version_info[:3])))
    place = re.fullmatch(rf"PID: (\d+) +Python {version}: (.+)", lines[4])
    assert (int(place[1]) != os.getpid()) == parallel_engine.pickles
    assert place[2] == sys.executable
    assert lines[5] == "." * 75
    assert lines[6].endswith("heapq.py in nlargest(n=2, iterable=3, key=None)")
    marked = [line for line in lines if line.startswith("-->")]
    assert len(marked) == 1
    assert re.match(r"--> \d+ +it = iter\(iterable\)", marked[0])
    assert lines[-2:] == ["TypeError: 'int' object is not iterable", "_" * 75]


def test_s65_printed_before_the_error_itself(parallel_engine):
    text = printed(fail(parallel_engine, delayed(nlargest)(2, 3)))
    assert "in nlargest(n=2, iterable=3, key=None)" in text
    assert text.rstrip().endswith("TypeError: 'int' object is not iterable")


def divide(a, b):
    return a / b


def outer(x, *rest, scale=1, **more):
    return divide(x * scale, len(rest))


def test_s65_every_frame_has_its_values(parallel_engine):
    text = listing(fail(parallel_engine, delayed(outer)(3, scale=2, other="z")))
    assert "outer(x=3, rest=(), scale=2, more={'other': 'z'})" in text
    assert "divide(a=6, b=0)" in text
    assert text.count("-->") == 2


def test_s65_stands_at_the_end_of_the_users_chain(parallel_engine):
    error = fail(parallel_engine, delayed(chained)(7))
    assert type(error) is RuntimeError
    assert type(error.__cause__) is KeyError
    assert "chained(x=7)" in listing(error)
    text = printed(error)
    assert text.index("KeyError") < text.rindex("RuntimeError")


def chained(x):
    raise RuntimeError("outer") from KeyError(x)


def test_s65_suppressed_context_stays_suppressed(engine):
    def hide():
        try:
            raise ValueError("hidden")
        except ValueError:
            raise RuntimeError("shown") from None

    error = fail(engine, delayed(hide)())
    assert error.__suppress_context__
    assert type(error.__context__) is ValueError


def test_s65_functions_in_c(parallel_engine):
    text = listing(fail(parallel_engine, delayed(divmod)(1, 0)))
    assert re.search(r"divmod\(.*1.*0.*\)", text)
    assert "ZeroDivisionError" in text


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_s65_generators(parallel_engine, return_as):
    error = fail(parallel_engine, delayed(divide)(1, 0), return_as=return_as)
    assert "divide(a=1, b=0)" in listing(error)
