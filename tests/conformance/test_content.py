"""A task has the values of the moment at which it was drawn, and its own copy."""

import pytest

from cypar import delayed

N = 40


def pick(mapping, key):
    return mapping[key]


@pytest.mark.parametrize("batch_size", [1, 4, "auto"])
def test_s13_a_dict_edited_between_two_yields(process_engine, batch_size):
    def tasks():
        shared = {}
        for i in range(N):
            shared["value"] = i
            yield delayed(pick)(shared, "value")

    out = process_engine.parallel(batch_size=batch_size)(tasks())
    assert out == list(range(N))


@pytest.mark.parametrize("batch_size", [1, 4, "auto"])
def test_s13_a_closure_cell_edited_between_two_yields(process_engine, batch_size):
    def tasks():
        value = None

        def read():
            return value

        for i in range(N):
            value = i
            yield delayed(read)()

    out = process_engine.parallel(batch_size=batch_size)(tasks())
    assert out == list(range(N))


@pytest.mark.parametrize("batch_size", [1, 4, "auto"])
def test_s13_an_attribute_edited_between_two_yields(process_engine, batch_size):
    class Model:
        x = -1

        def read(self):
            return self.x

    def tasks():
        model = Model()
        for i in range(N):
            model.x = i
            yield delayed(model.read)()

    out = process_engine.parallel(batch_size=batch_size)(tasks())
    assert out == list(range(N))


def test_s13_a_buffer_refilled_between_two_yields(process_engine):
    def tasks():
        buffer = bytearray(100_000)
        for i in range(N):
            buffer[:] = bytes([i]) * len(buffer)
            yield delayed(pick)(buffer, 50_000)

    assert process_engine.parallel()(tasks()) == list(range(N))


def test_s13_values_change_between_two_calls(process_engine):
    state = {"value": 0}

    def read():
        return state["value"]

    with process_engine.parallel() as parallel:
        for i in range(5):
            state["value"] = i
            assert parallel(delayed(read)() for _ in range(4)) == [i] * 4


@pytest.mark.parametrize("batch_size", [1, 10, "auto"])
def test_s13_a_task_that_changes_its_argument(process_engine, batch_size):
    """Equal arguments are sent once at most, but each task loads its own."""
    mine = [1, 2]

    def push(target):
        target.append(3)
        return target

    out = process_engine.parallel(batch_size=batch_size)(
        delayed(push)(mine) for _ in range(30)
    )
    assert out == [[1, 2, 3]] * 30
    assert mine == [1, 2]


def test_s13_a_task_that_changes_its_closure(process_engine):
    seen = []

    def push():
        seen.append(1)
        return len(seen)

    assert process_engine.parallel()(delayed(push)() for _ in range(30)) == [1] * 30
    assert seen == []


def test_s13_a_task_that_changes_its_default(process_engine):
    def push(seen=[]):  # noqa: B006
        seen.append(1)
        return len(seen)

    assert process_engine.parallel()(delayed(push)() for _ in range(30)) == [1] * 30


def test_s15_shared_arguments_are_the_same_object(shared_engine):
    mine = []
    shared_engine.parallel()(delayed(mine.append)(i) for i in range(50))
    assert sorted(mine) == list(range(50))
