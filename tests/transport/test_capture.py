"""transport/_capture: a task is what its arguments were when it was drawn."""

import pickle
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cypar.core._watch import Watch
from cypar.transport import settings
from cypar.transport._capture import Capture, columns_of, table_of
from cypar.transport.functions import FunctionTable, decode

ENTRY = struct.Struct("<IHHQ")  # function id, large buffers, flags, bytes


class Reference:
    """Stands for what a FunctionTable gives."""

    def __init__(self, name, mutable=False):
        self.name = name
        self.mutable = mutable


class Table:
    """A table of functions that counts the questions."""

    def __init__(self):
        self.asked = []
        self.watch = None

    def encode(self, function):
        self.asked.append(function)
        return Reference(function)

    def watch_of(self, function, reference):
        return self.watch


def watch(function, **parts):
    return Watch(function, False, (), (), parts.get("names", ()), (), None)


def refuse(*args):
    raise AssertionError(args)


@pytest.fixture
def table():
    return Table()


@pytest.fixture
def capture(table):
    return Capture(table, pickle.dumps, refuse)


# ---- Capture ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [(), (1, 2.5, None), ("text", b"bytes"), ((1, (2, "x")),), (frozenset({1}),)],
)
def test_immutable_arguments_are_kept_as_they_are(capture, args):
    reference, captured = capture(0, (abs, args, {}))
    assert reference.name is abs
    assert captured is args


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [(([1],), {}), ((1, {}), {}), ((1,), {"key": 2}), ((object,), {})],
    ids=repr,
)
def test_other_arguments_are_pickled(capture, args, kwargs):
    reference, captured = capture(0, (abs, args, kwargs))
    assert reference.name is abs
    assert type(captured) is bytes
    assert pickle.loads(captured) == (args, kwargs)


def test_the_arguments_are_those_of_the_draw(capture):
    refilled, options = [0], {"key": 0}
    captured = []
    for i in range(3):
        refilled[0] = options["key"] = i
        captured.append(capture(i, (abs, (refilled,), options))[1])
    assert [pickle.loads(data) for data in captured] == [
        (([i],), {"key": i}) for i in range(3)
    ]


def test_the_function_is_that_of_the_draw():
    limits = [0]

    def function():
        return limits[0]

    capture = Capture(FunctionTable(), pickle.dumps, refuse)
    references = []
    for i in range(3):
        limits[0] = i
        references.append(capture(i, (function, (), {}))[0])
    assert [decode(ref.blob)() for ref in references] == [0, 1, 2]
    assert all(ref.mutable for ref in references)


def test_a_function_that_did_not_change_is_encoded_once(capture, table):
    table.watch = watch(abs)
    references = {id(capture(i, (abs, (), {}))[0]) for i in range(5)}
    assert len(references) == 1
    assert table.asked == [abs]


def test_a_function_without_a_watch_is_encoded_every_time(capture, table):
    for i in range(3):
        capture(i, (abs, (), {}))
    assert table.asked == [abs] * 3


def test_a_changed_function_is_encoded_again(capture, table):
    namespace = {"x": "old"}
    table.watch = watch(abs, names=((namespace, "x", "old"),))
    capture(0, (abs, (), {}))
    namespace["x"] = "new"
    capture(1, (abs, (), {}))
    assert table.asked == [abs, abs]


def test_another_function_is_encoded(capture, table):
    for function in (abs, len, abs):
        table.watch = watch(function)
        assert capture(0, (function, (), {}))[0].name is function
    assert table.asked == [abs, len, abs]


def test_new_settings_encode_a_function_again(capture, table, monkeypatch):
    table.watch = watch(abs)
    capture(0, (abs, (), {}))
    monkeypatch.setattr(settings, "generation", object())
    for _ in range(2):
        capture(1, (abs, (), {}))
    assert table.asked == [abs, abs]


@pytest.mark.parametrize("culprit", ["function", "arguments"])
def test_what_cannot_be_pickled_is_explained(table, culprit):
    failure = pickle.PicklingError("it has a lock")
    explained = LookupError("task 7 has a lock in it")
    asked = []

    def fail(obj):
        raise failure

    def explain(*question):
        asked.append(question)
        return explained

    if culprit == "function":
        table.encode = fail
    capture = Capture(table, fail, explain)
    with pytest.raises(LookupError) as caught:
        capture(7, (abs, ([1],), {"key": 2}))
    assert caught.value is explained
    assert caught.value.__cause__ is failure
    assert asked == [(7, abs, ([1],), {"key": 2}, failure)]


def test_ctrl_c_while_pickling_is_not_explained(table):
    def interrupt(obj):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Capture(table, interrupt, refuse)(0, (abs, ([],), {}))


# ---- batches ---------------------------------------------------------------------

SAME = Reference("same")


def test_tasks_of_one_function_travel_as_columns():
    args = [(1,), (2, 3), ()]
    tasks = [(10 + i, (SAME, args[i])) for i in range(3)]
    columns = columns_of(tasks)
    assert columns == args
    assert all(column is arg for column, arg in zip(columns, args, strict=True))


@pytest.mark.parametrize(
    "tasks",
    [
        [(0, (SAME, (1,))), (1, (Reference("other"), (1,)))],
        [(0, (SAME, (1,))), (1, (SAME, b"pickled"))],
        [(0, (SAME, b"pickled"))],
        [(0, (Reference("mutable", mutable=True), (1,)))],
    ],
    ids=["two functions", "one pickled", "all pickled", "mutable function"],
)
def test_other_tasks_do_not_travel_as_columns(tasks):
    assert columns_of(tasks) is None


def as_the_worker_reads(parts, n):
    """Take a TASKS message apart: [(function id, (args, kwargs))]."""
    payload = b"".join(parts)
    offset = n * ENTRY.size
    tasks = []
    for number, n_pieces, flags, size in ENTRY.iter_unpack(payload[:offset]):
        assert n_pieces == flags == 0
        tasks.append((number, pickle.loads(payload[offset : offset + size])))
        offset += size
    assert offset == len(payload)
    return tasks


def test_a_table_has_the_function_and_arguments_of_each_task():
    other = Reference("other")
    pickled = ((1, [2]), {"key": 3})
    tasks = [
        (0, (SAME, ("plain", 1))),
        (1, (other, pickle.dumps(pickled))),
        (2, (SAME, ())),
    ]
    numbers = {SAME: 2**32 - 1, other: 0}
    parts = table_of(tasks, numbers.__getitem__)
    assert as_the_worker_reads(parts, 3) == [
        (2**32 - 1, (("plain", 1), {})),
        (0, pickled),
        (2**32 - 1, ((), {})),
    ]


arguments = st.lists(
    st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3),
    max_size=3,
).map(tuple)


@given(
    st.lists(
        st.tuples(arguments, st.dictionaries(st.text(max_size=3), st.integers())),
        min_size=1,
        max_size=10,
    )
)
def test_any_batch_arrives(calls):
    capture = Capture(FunctionTable(), pickle.dumps, refuse)
    tasks = [
        (i, capture(i, (dict, args, kwargs))) for i, (args, kwargs) in enumerate(calls)
    ]
    columns = columns_of(tasks)
    if columns is not None:
        assert [(args, {}) for args in columns] == calls
    parts = table_of(tasks, lambda ref: 5)
    assert as_the_worker_reads(parts, len(calls)) == [(5, call) for call in calls]
