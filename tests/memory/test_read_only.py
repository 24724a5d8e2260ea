"""Errors of tasks that write to what is mapped read-only say what to do."""

import numpy as np
import pytest

from cypar import Parallel, delayed

M = 1 << 20
CURE = r"which is more than max_nbytes.*mmap_mode='c'"


def add_one(first, data):
    data += 1
    return first


def run_two(function, *args, **kwargs):
    return Parallel(n_jobs=2)(delayed(function)(*args, **kwargs) for _ in range(2))


def message_of(function, *args, **kwargs):
    """Return what the error says, notes included."""
    with pytest.raises((ValueError, TypeError)) as caught:
        run_two(function, *args, **kwargs)
    error = caught.value
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


@pytest.mark.parametrize("by_name", [False, True])
def test_the_message_names_the_argument_its_size_and_the_cure(by_name):
    array = np.ones(3 * M // 8)
    args, kwargs = ((1,), {"data": array}) if by_name else ((1, array), {})
    with pytest.raises(ValueError, match=f"read-only: argument.*data.*3.0 MB, {CURE}"):
        run_two(add_one, *args, **kwargs)


@pytest.mark.parametrize(
    "write",
    [
        lambda a: a.__setitem__(0, 1.0),
        lambda a: np.add(a, 1, out=a),
        lambda a: a.sort(),
        lambda a: memoryview(a).__setitem__(0, 1.0),
    ],
    ids=["assignment", "output", "sort", "memoryview"],
)
def test_whoever_refuses_to_write(write):
    message = message_of(lambda a: write(a), np.ones(M))
    assert "read-only" in message
    assert "argument 0" in message or "argument a" in message or "'a'" in message
    assert "mmap_mode='c'" in message


def test_arrays_in_containers_and_frames_are_found():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(np.ones((M // 4, 4)))

    def edit(config, table=None):
        if table is None:
            config["x"][0][0] = 1
        else:
            table.to_numpy(copy=False)[0, 0] = 1

    assert "config" in message_of(edit, {"x": [np.ones(M)]})
    message = message_of(edit, {}, table=frame)
    assert "table" in message
    assert "8.0 MB" in message


def test_captured_arrays_and_attributes_are_found():
    array = np.ones(M)

    def edit():
        array[0] = 1

    class Model:
        def __init__(self):
            self.weights = np.ones(M)

        def fit(self):
            self.weights[0] = 1

    assert "captured variable 'array' has 8.0 MB" in message_of(edit)
    message = message_of(Model().fit)
    assert "the object that the method belongs to has 8.0 MB" in message


def test_the_cure_works():
    array = np.ones(M)
    for options in ({"mmap_mode": "c"}, {"mmap_mode": None}, {"max_nbytes": None}):
        run = Parallel(n_jobs=2, **options)
        assert run(delayed(add_one)(i, array) for i in range(3)) == [0, 1, 2]
    assert (array == 1).all()


def test_other_errors_stay_as_they_are():
    def fail(array):
        raise ValueError("a read-only file system")

    with pytest.raises(ValueError, match=r"^a read-only file system$"):
        run_two(fail, np.ones(10))

    def fail_otherwise(array):
        raise ValueError("no")

    with pytest.raises(ValueError, match=r"^no$"):
        run_two(fail_otherwise, np.ones(M))


def test_an_array_of_the_tasks_own_is_not_blamed():
    """Nothing mapped is read-only here, so there is nothing to explain."""

    def freeze(array):
        own = array.copy()
        own.flags.writeable = False
        own[0] = 1

    with pytest.raises(ValueError, match=r"read-only$"):
        Parallel(n_jobs=2, mmap_mode="c")(delayed(freeze)(np.ones(M)) for _ in range(2))
