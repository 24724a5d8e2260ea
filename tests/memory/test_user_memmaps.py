"""Rows S50, S52 to S54: the user's own memory maps travel as references to the file."""

import gc
import os

import numpy as np
import pytest

from cypar import Parallel, delayed, dump, load
from cypar.transport import memmap

M = 1 << 20


def is_memmap(obj):
    return isinstance(obj, np.memmap)


def about(array):
    return type(array).__name__, array.mode, str(array.filename), array.tolist()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "data.mmap")


@pytest.fixture
def stored(path):
    """Return a function that opens a file with 0, 1, 2, ... in 64 elements."""
    dump(np.arange(64.0), path)
    return lambda mode: load(path, mmap_mode=mode)


@pytest.fixture
def no_copies(fresh_arena):
    """Fail if any array was copied to shared memory."""
    yield
    counters = fresh_arena.counters
    assert (counters.cold, counters.warm, counters.reused) == (0, 0, 0)


def test_s49_s50_s52_the_example_of_the_reference_text(parallel, tmp_path, no_copies):
    large_array = np.ones(int(1e6))
    filename = os.path.join(tmp_path, "joblib_test.mmap")
    assert dump(large_array, filename) == [filename]
    large_memmap = load(filename, mmap_mode="r+")
    assert large_memmap.__class__.__name__ == "memmap"
    assert (large_array.nbytes, large_array.shape) == (8000000, (1000000,))
    assert np.allclose(large_array, large_memmap)
    del large_array
    gc.collect()
    small_memmap = large_memmap[2:5]
    assert small_memmap.__class__.__name__ == "memmap"
    assert (small_memmap.nbytes, small_memmap.shape) == (24, (3,))
    small_array = np.asarray(small_memmap)
    assert small_array.__class__.__name__ == "ndarray"
    assert (small_array.nbytes, small_array.shape) == (24, (3,))
    arrays = [large_memmap, small_memmap, small_array]
    assert np.shares_memory(small_array, large_memmap)
    run = parallel(max_nbytes=None)
    assert run(delayed(is_memmap)(a) for a in arrays) == [True, True, True]


VIEWS = {
    "slice": lambda a: a[2:5],
    "step": lambda a: a[1::3],
    "reversed": lambda a: a[::-1],
    "negative step": lambda a: a[50:4:-7],
    "asarray": lambda a: np.asarray(a)[3:9],
    "asarray twice": lambda a: np.asarray(np.asarray(a[5:])[2:])[:4],
    "reshaped": lambda a: a.reshape(8, 8),
    "transposed": lambda a: a.reshape(4, 16).T,
    "column": lambda a: a.reshape(8, 8)[:, 3],
    "block": lambda a: a.reshape(8, 8)[2:5, ::-2],
    "three axes": lambda a: a.reshape(4, 4, 4).transpose(1, 2, 0)[1:],
    "other dtype": lambda a: a.view("u2")[6:20],
    "fortran order": lambda a: a.reshape((8, 8), order="F"),
    "one element": lambda a: a[7:8],
    "frombuffer": lambda a: np.frombuffer(memoryview(a[8:16]), "f8"),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_s52_views_refer_to_the_same_file(parallel, stored, path, no_copies, view):
    array = view(stored("r"))
    out = parallel(max_nbytes=1)(delayed(about)(array) for _ in range(2))
    assert out == [("memmap", "r", path, array.tolist())] * 2


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_views_without_elements(parallel, stored, mode):
    """They cannot be mapped: a mapping has at least one byte."""
    square = stored(mode).reshape(8, 8)
    views = [square[0:0], square[0:0, :5], square[0:0, 5:3:-1], square[3:3, ::3]]
    assert parallel()(delayed(np.shape)(v) for v in views) == [v.shape for v in views]


@pytest.mark.parametrize(("opened", "seen"), [("r", "r"), ("r+", "r+"), ("c", "c")])
def test_s54_mode_that_the_worker_sees(parallel, stored, path, opened, seen):
    kind, mode, file, _ = parallel()(delayed(about)(stored(opened)) for _ in range(2))[
        0
    ]
    assert (kind, mode, file) == ("memmap", seen, path)


def test_s54_an_array_opened_w_is_not_erased(parallel, path):
    array = np.memmap(path, "f8", "w+", shape=(16,))
    array[:] = range(16)
    (_, mode, _, values), _ = parallel()(delayed(about)(array) for _ in range(2))
    assert mode == "r+"
    assert values == list(range(16))


def fill(row, i):
    row[:] = i


@pytest.mark.parametrize("max_nbytes", [None, 1, "1M"])
def test_s54_preallocated_output(parallel, path, max_nbytes):
    output = np.memmap(path, "f8", "w+", shape=(10, 300))
    assert (
        parallel(max_nbytes=max_nbytes)(delayed(fill)(output[i], i) for i in range(10))
        == [None] * 10
    )
    assert (output == np.arange(10)[:, None]).all()
    views = [np.asarray(output), output.T, output[::-1], output[:, ::2]]
    for k, view in enumerate(views):
        parallel(max_nbytes=max_nbytes)(delayed(fill)(row, k) for row in view)
        assert (view == k).all()


def test_s54_read_only_views_stay_read_only(parallel, stored):
    view = np.asarray(stored("r+"))
    view.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        parallel()(delayed(fill)(view, 1) for _ in range(2))


# ---- mode 'c' --------------------------------------------------------------------


def test_an_edited_c_memmap_travels_by_value(parallel, stored):
    array = stored("c")
    total = float(array.sum())
    for i in range(3):
        array[i] += 10
        total += 10
        assert parallel()(delayed(np.sum)(array) for _ in range(3)) == [total] * 3


def test_an_edited_large_c_memmap_travels_by_value(parallel, path):
    dump(np.zeros(M // 4), path)
    array = load(path, mmap_mode="c")
    run = parallel()
    assert run(delayed(np.sum)(array) for _ in range(2)) == [0, 0]

    def tasks():
        for i in range(6):
            array[i * 1000] = 1
            yield delayed(np.sum)(array)

    assert run(tasks()) == [1, 2, 3, 4, 5, 6]
    assert (load(path) == 0).all()


def test_an_untouched_c_memmap_refers_to_the_file(stored):
    array = stored("c")
    assert memmap.reduce_view(array, memmap.backing_of(array)) is not None
    assert memmap.reduce_view(array[3:5], memmap.backing_of(array[3:5])) is not None
    array[0] = 1
    assert memmap.reduce_view(array, memmap.backing_of(array)) is None


# ---- what has no file any more ---------------------------------------------------


def test_a_deleted_file(parallel, path):
    array = np.memmap(path, "f8", "w+", shape=(4,))
    array[:] = 3
    os.unlink(path)
    assert parallel()(delayed(np.sum)(array) for _ in range(2)) == [12, 12]


def test_a_replaced_file(parallel, path):
    array = np.memmap(path, "f8", "w+", shape=(4,))
    array[:] = 3
    run = parallel()
    assert run(delayed(np.sum)(array) for _ in range(2)) == [12, 12]
    dump(np.zeros(4), path)
    assert run(delayed(np.sum)(array) for _ in range(2)) == [12, 12]


def test_memory_without_a_file(parallel):
    import mmap

    array = np.frombuffer(mmap.mmap(-1, 4096), "f8")
    array[:] = 2
    out = parallel(max_nbytes=1000)(delayed(np.sum)(a) for a in (array, array[:4]))
    assert out == [1024, 8]


# ---- S53: on the way back --------------------------------------------------------


def same(array):
    return array


def test_s53_a_mapped_argument_comes_back_ordinary(parallel):
    array = np.arange(3e5)
    for result in parallel()(
        delayed(same)(a) for a in (array, array[::-1], array[:10], array.reshape(3, -1))
    ):
        assert type(result) is np.ndarray
        assert result.flags.writeable
        result[...] = 0
    assert array[5] == 5


def test_s53_a_part_of_a_mapped_argument_comes_back_ordinary(parallel):
    array = np.arange(3e5)
    out = parallel()(delayed(lambda a: [a[:3], {"x": a[5:]}])(array) for _ in range(2))
    for small, nested in out:
        assert type(small) is np.ndarray
        assert type(nested["x"]) is np.ndarray
        assert small.tolist() == [0, 1, 2]
        assert nested["x"].sum() == array[5:].sum()


def test_s53_a_user_memmap_comes_back_on_its_file(parallel, stored, path):
    out = parallel()(delayed(same)(a) for a in (stored("r+"), stored("r")[3:7]))
    assert [type(result) for result in out] == [np.memmap, np.memmap]
    assert [result.mode for result in out] == ["r+", "r"]
    assert {result.filename for result in out} == {path}
    assert out[1].tolist() == [3, 4, 5, 6]


def test_s53_a_memmap_made_by_a_task_comes_back_on_its_file(parallel, path):
    def make():
        array = np.memmap(path, "f8", "w+", shape=(5,))
        array[:] = 7
        return array

    (result,) = Parallel(n_jobs=2)(delayed(make)() for _ in range(1))
    assert type(result) is np.memmap
    assert (result.filename, result.tolist()) == (path, [7] * 5)
