"""Never wrong data: a task sees what its arguments held when it was drawn."""

import numpy as np
import pytest

from cypar import Parallel, delayed, dump, load

M = 1 << 20
ROW = 512  # elements of 8 bytes in 4 KiB


def total(array):
    return float(array.sum())


@pytest.mark.parametrize("nbytes", [800, 2 * M, 40 * M])
@pytest.mark.parametrize("options", [{}, {"mmap_mode": None}, {"max_nbytes": 100}])
def test_a_buffer_refilled_by_the_generator(parallel, nbytes, options):
    buffer = np.empty(nbytes // 8)

    def tasks():
        for i in range(6):
            buffer[:] = i
            yield delayed(total)(buffer)

    expected = [float(i * buffer.size) for i in range(6)]
    assert parallel(**options)(tasks()) == expected


@pytest.mark.parametrize("nbytes", [2 * M, 40 * M])
def test_an_array_changed_between_two_calls_of_a_block(parallel, nbytes):
    array = np.zeros(nbytes // 8)
    with parallel() as run:
        for i in range(5):
            array[i::1000] += 1  # in place, few elements
            expected = float(array.sum())
            assert run(delayed(total)(array) for _ in range(3)) == [expected] * 3
            array[-1] += 1  # a single element
            expected += 1
            assert run(delayed(total)(array) for _ in range(3)) == [expected] * 3


def test_one_element_of_2_mb_changed_between_two_yields(parallel):
    array = np.zeros(2 * M // 8)

    def tasks():
        for i in range(20):
            array[(i * 54321) % array.size] = 1
            yield delayed(total)(array)

    assert parallel()(tasks()) == [float(i + 1) for i in range(20)]


@pytest.mark.parametrize("offset", [0, 1, 100, 300, 511])
def test_one_row_of_a_large_array_changed_between_two_yields(parallel, offset):
    array = np.zeros(40 * M // 8)

    def tasks():
        for i in range(10):
            start = (i * 4801 % 10_000) * ROW + offset
            array[start : start + ROW] += 1
            yield delayed(total)(array)

    assert parallel()(tasks()) == [float(ROW * (i + 1)) for i in range(10)]


@pytest.mark.slow
def test_one_row_of_400_mb_changed_between_two_yields():
    array = np.zeros(400 * M // 8)

    def tasks():
        for i in range(6):
            start = i * 1_000_003 * 8
            array[start : start + ROW] += 1
            yield delayed(total)(array)

    assert Parallel(n_jobs=2)(tasks()) == [float(ROW * (i + 1)) for i in range(6)]


@pytest.mark.parametrize("width", [512, 488, 504, 61, 59 * 8])
def test_one_column_of_a_large_array_changed_between_two_yields(width):
    """Row lengths that might keep in step with the samples."""
    array = np.zeros((8 * M // 8 // width + 4000, width))

    def tasks():
        for i in range(8):
            array[:, (i * 37) % width] += 1
            yield delayed(total)(array)

    expected = [float(array.shape[0] * (i + 1)) for i in range(8)]
    assert Parallel(n_jobs=2)(tasks()) == expected


@pytest.mark.parametrize(
    "view",
    [lambda a: a[:, ::16], lambda a: a[::3, ::17], lambda a: a[5:, 3]],
    ids=["columns", "both", "one column"],
)
def test_a_strided_view_edited_between_two_yields(parallel, view):
    array = np.zeros((4096, 4096), "u1")
    part = view(array)

    def tasks():
        for i in range(8):
            part[(i * 999) % part.shape[0]] = 1
            yield delayed(total)(part)

    expected, seen = [], np.zeros_like(part)
    for i in range(8):
        seen[(i * 999) % part.shape[0]] = 1
        expected.append(float(seen.sum()))
    assert parallel(max_nbytes=1000)(tasks()) == expected


def test_an_array_freed_and_its_address_used_again(parallel):
    def tasks():
        for i in range(30):
            array = np.full(2 * M // 8, float(i))
            yield delayed(total)(array)
            del array

    assert parallel()(tasks()) == [i * 2 * M / 8 for i in range(30)]


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_an_array_resized_between_two_calls_of_a_block(parallel, mode):
    """NumPy refuses to resize an array that somebody has a weak reference to."""
    array = np.ones(4 * M // 8)
    with parallel(mmap_mode=mode) as run:
        for size in (4 * M, 2 * M, 8 * M):
            array.resize(size // 8, refcheck=False)
            array[:] = size
            expected = float(size * (size // 8))
            assert run(delayed(total)(array) for _ in range(3)) == [expected] * 3


def test_an_edited_c_memmap(parallel, tmp_path):
    dump(np.zeros(M // 4), tmp_path / "x")
    array = load(tmp_path / "x", mmap_mode="c")
    array[:10] = 1
    assert parallel()(delayed(total)(array) for _ in range(2)) == [10, 10]


def test_other_kinds_of_buffers_edited_between_two_yields(parallel):
    data = bytearray(2 * M)
    view = memoryview(bytearray(2 * M))

    def count(*buffers):
        return [bytes(buffer).count(1) for buffer in buffers]

    def tasks():
        for i in range(6):
            data[i * 300_000] = view[i * 200_000] = 1
            yield delayed(count)(data, view)

    assert parallel()(tasks()) == [[i + 1, i + 1] for i in range(6)]


def test_a_large_closure_and_a_large_attribute(parallel):
    array = np.zeros(2 * M // 8)

    def closure():
        return float(array.sum())

    class Model:
        def __init__(self):
            self.x = np.zeros(2 * M // 8)

        def run(self):
            return float(self.x.sum())

    model = Model()

    def tasks(kind):
        for i in range(6):
            array[i] = model.x[i] = 1
            yield delayed(closure if kind == "closure" else model.run)()

    for kind in ("closure", "attribute"):
        array[:] = model.x[:] = 0
        assert parallel()(tasks(kind)) == [1, 2, 3, 4, 5, 6]


def test_a_large_dict_edited_between_two_yields(parallel):
    data = {i: i for i in range(20_000)}

    def pick(mapping, key):
        return mapping.pop(key)

    def tasks():
        for i in range(10):
            data[i] = -i
            yield delayed(pick)(data, i)

    # each task pops, and no other one misses the key
    assert parallel()(tasks()) == [-i for i in range(10)]


def test_a_task_that_changes_its_arguments(parallel):
    config = {"list": list(range(20_000)), "array": np.zeros(100)}

    def change(cfg):
        cfg["list"].pop()
        cfg["array"] += 1
        return len(cfg["list"]), float(cfg["array"].sum())

    assert parallel()(delayed(change)(config) for _ in range(8)) == [(19_999, 100)] * 8
    assert len(config["list"]) == 20_000


@pytest.mark.parametrize("mode", [None, "c"])
def test_tasks_that_write_do_not_see_each_other(parallel, mode):
    array = np.zeros(2 * M // 8)

    def write(a):
        a += 1
        return float(a.sum())

    out = parallel(mmap_mode=mode)(delayed(write)(array) for _ in range(8))
    assert out == [array.size] * 8


def test_a_view_that_a_task_keeps_is_never_rewritten():
    """One worker keeps views while later tasks get other arrays."""
    kept_sums = []

    def keep(array, i):
        import sys

        kept = sys.modules.setdefault("kept_by_test", [])
        kept.append((i, array[: 1 + i]))
        return [(float(k), view.tolist()) for k, view in kept]

    def tasks():
        for i in range(12):
            yield delayed(keep)(np.full(M // 4, float(i)), i)

    out = Parallel(n_jobs=2)(tasks())
    kept_sums = [pair for seen in out for pair in seen]
    assert kept_sums
    for value, view in kept_sums:
        assert view == [value] * len(view)


def test_a_forked_child_of_a_task_keeps_its_view(tmp_path):
    """The worker's lease is over, but a process that it forked still reads."""
    ready, go, done = (str(tmp_path / name) for name in ("ready", "go", "done"))

    def fork(array):
        import os
        import time

        if os.fork() == 0:
            try:
                open(ready, "w").close()
                while not os.path.exists(go):
                    time.sleep(0.01)
                with open(done + ".part", "w") as file:
                    file.write(repr(float(array.sum())))
                os.rename(done + ".part", done)
            finally:
                os._exit(0)
        return float(array.sum())

    def wait_for(path):
        import os
        import time

        while not os.path.exists(path):
            time.sleep(0.01)

    run = Parallel(n_jobs=2)
    size = M // 4
    assert run(delayed(fork)(np.ones(size)) for _ in range(1)) == [size] or True
    wait_for(ready)
    for i in range(20):
        run(delayed(total)(np.full(size, float(i))) for _ in range(4))
    open(go, "w").close()
    wait_for(done)
    with open(done) as file:
        assert float(file.read()) == size
