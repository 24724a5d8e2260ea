"""Rows S42 to S48: large arrays arrive as memory maps, as the options say."""

import os
import stat
import sys

import numpy as np
import pytest

from cypar import Parallel, delayed
from cypar.transport.copies import Copier

M = 1 << 20


def is_memmap(obj):
    return isinstance(obj, np.memmap)


def about(array):
    """What a task can say about an array that it got."""
    return {
        "kind": type(array).__name__,
        "mode": getattr(array, "mode", None),
        "writable": bool(array.flags.writeable),
        "file": getattr(array, "filename", None),
        "sum": float(array.sum()) if array.dtype.kind in "bif" else None,
        "pid": os.getpid(),
    }


def test_s42_the_example_of_the_reference_text(parallel):
    sizes = [1e2, 1e4, 1e6]
    tasks = (delayed(is_memmap)(np.ones(int(i))) for i in sizes)
    assert parallel(max_nbytes=1e6)(tasks) == [False, False, True]


@pytest.mark.parametrize(
    ("max_nbytes", "nbytes", "expected"),
    [
        ("1M", M, False),
        ("1M", M + 8, True),
        (1000, 1000, False),
        (1000, 1008, True),
        ("1.5K", 1536, False),
        ("1.5K", 1544, True),
        (0, 8, True),
        ("2G", 8 * M, False),
        (None, 8 * M, False),
    ],
)
def test_s42_s43_the_threshold_is_strict(parallel, max_nbytes, nbytes, expected):
    array = np.zeros(nbytes // 8)
    run = parallel(max_nbytes=max_nbytes)
    assert run(delayed(is_memmap)(array) for _ in range(2)) == [expected] * 2


def test_s43_an_unmapped_array_is_ordinary(parallel):
    for options in ({"max_nbytes": None}, {"mmap_mode": None}):
        for info in parallel(**options)(delayed(about)(np.ones(M)) for _ in range(2)):
            assert info["kind"] == "ndarray"
            assert info["writable"]
            assert info["sum"] == M


# ---- S44: where the data lies ----------------------------------------------------


def where(array):
    folder = os.path.dirname(array.filename)
    return (
        array.filename,
        stat.S_IMODE(os.stat(array.filename).st_mode),
        stat.S_IMODE(os.stat(folder).st_mode),
    )


def test_s44_temp_folder_is_used_in_every_call(parallel, tmp_path):
    for name in ("one", "two", "one"):
        run = parallel(temp_folder=tmp_path / name)
        for file, file_mode, folder_mode in run(
            delayed(where)(np.ones(2 * M)) for _ in range(2)
        ):
            assert file.startswith(str(tmp_path / name) + os.sep)
            assert (file_mode, folder_mode) == (0o600, 0o700)
        assert os.listdir(tmp_path / name) == []


def test_s44_temp_folder_in_a_block(parallel, tmp_path):
    with parallel(temp_folder=tmp_path) as run:
        for _ in range(2):
            for file, *_ in run(delayed(where)(np.ones(M)) for _ in range(2)):
                assert file.startswith(str(tmp_path) + os.sep)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("variable", ["JOBLIB_TEMP_FOLDER", "CYPAR_TEMP_FOLDER"])
def test_s44_the_environment_names_the_folder(
    parallel, tmp_path, monkeypatch, variable
):
    monkeypatch.setenv(variable, str(tmp_path / "a"))
    (file, *_), _ = parallel()(delayed(where)(np.ones(M)) for _ in range(2))
    assert file.startswith(str(tmp_path / "a") + os.sep)
    # the argument wins
    run = parallel(temp_folder=tmp_path / "b")
    (file, *_), _ = run(delayed(where)(np.ones(M)) for _ in range(2))
    assert file.startswith(str(tmp_path / "b") + os.sep)


def test_s44_our_variable_wins(tmp_path, monkeypatch):
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(tmp_path / "theirs"))
    monkeypatch.setenv("CYPAR_TEMP_FOLDER", str(tmp_path / "ours"))
    assert Copier().folder.parent == str(tmp_path / "ours")


@pytest.mark.skipif(sys.platform != "linux", reason="memory without a name is Linux's")
def test_s44_without_a_folder_the_memory_has_no_name(parallel):
    before = set(os.listdir("/dev/shm"))
    infos = parallel()(delayed(about)(np.ones(M)) for _ in range(2))
    assert all(info["file"] == f"/proc/{os.getpid()}/fd/{_fd(info)}" for info in infos)
    assert set(os.listdir("/dev/shm")) == before


def _fd(info):
    return int(info["file"].rpartition("/")[2])


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_s44_the_file_name_in_a_worker_can_be_opened(parallel):
    def reopen(array):
        again = np.memmap(array.filename, array.dtype, "r", array.offset, array.shape)
        return bool((again == array).all())

    array = np.arange(3e5)
    assert parallel()(delayed(reopen)(a) for a in (array, array[7:], array[::-1][::-1]))


# ---- S45: process backends only ----------------------------------------------------


@pytest.mark.parametrize("backend", ["threading", "sequential"])
def test_s45_other_backends_get_the_very_object(tmp_path, backend):
    array = np.ones(2 * M)
    run = Parallel(n_jobs=2, backend=backend, max_nbytes=1, temp_folder=tmp_path / "x")
    out = run(delayed(lambda a: a)(array) for _ in range(2))
    assert all(result is array for result in out)
    assert not (tmp_path / "x").exists()


def test_s45_no_folder_while_nothing_is_mapped(parallel, tmp_path):
    run = parallel(temp_folder=tmp_path / "x")
    run(delayed(is_memmap)(np.ones(10)) for _ in range(2))
    assert not (tmp_path / "x").exists()


# ---- S46, S47 --------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4])
def test_s46_one_copy_for_many_tasks(parallel, fresh_arena, batch_size):
    array = np.random.default_rng(0).random(M)

    def total(x):
        inner = x["data"][0] if isinstance(x, dict) else x
        return float(inner.sum())

    tasks = [array, {"data": [array]}] * 6
    run = parallel(batch_size=batch_size)
    assert run(delayed(total)(x) for x in tasks) == [float(array.sum())] * 12
    assert fresh_arena.counters.cold == 1
    assert fresh_arena.counters.warm == 0


def test_s46_frames_and_sparse_matrices_are_copied_once(parallel, fresh_arena):
    pd = pytest.importorskip("pandas")
    sparse = pytest.importorskip("scipy.sparse")
    frame = pd.DataFrame(np.random.default_rng(0).random((M // 4, 4)))
    matrix = sparse.random(3000, 3000, 0.1, format="csr", random_state=0)

    def totals(f, m):
        values = f.to_numpy()
        return float(values.sum()), float(m.sum()), type(m.data).__name__

    expected = (float(frame.to_numpy().sum()), float(matrix.sum()), "memmap")
    out = parallel()(delayed(totals)(frame, matrix) for _ in range(8))
    assert out == [expected] * 8
    assert fresh_arena.counters.cold + fresh_arena.counters.warm <= 4


def test_s47_files_are_gone_after_an_error(parallel, tmp_path):
    def fail(array):
        raise RuntimeError(array.filename)

    with pytest.raises(RuntimeError, match=str(tmp_path)):
        parallel(temp_folder=tmp_path)(delayed(fail)(np.ones(M)) for _ in range(2))
    assert os.listdir(tmp_path) == []


# ---- S48: modes -------------------------------------------------------------------


def write_first(array):
    array[0] = -1.0
    return float(array[0])


def test_s48_r_cannot_be_written(parallel):
    with pytest.raises(ValueError, match="assignment destination is read-only"):
        parallel(mmap_mode="r")(delayed(write_first)(np.ones(M)) for _ in range(2))


def test_s48_c_is_private(parallel):
    array = np.ones(M)

    def write_and_sum(a):
        before = float(a.sum())
        a[:] = 0
        return before

    out = parallel(mmap_mode="c")(delayed(write_and_sum)(array) for _ in range(8))
    assert out == [M] * 8
    assert array.sum() == M


@pytest.mark.parametrize("mode", ["r+", "w+"])
def test_s48_writes_reach_the_shared_copy_only(parallel, mode):
    array = np.ones(M)

    def add_one(a, i):
        seen = float(a[0]), float(a[1:].sum())
        a[0] += 1
        return seen

    run = parallel(mmap_mode=mode, pre_dispatch=1)
    out = run(delayed(add_one)(array, i) for i in range(4))
    # never zeroed, and one after the other
    assert out == [(1.0 + i, M - 1) for i in range(4)]
    assert array[0] == 1


@pytest.mark.parametrize(
    ("mode", "seen", "writable"),
    [("r", "r", False), ("r+", "r+", True), ("w+", "r+", True), ("c", "c", True)],
)
def test_s48_mode_of_the_memmap(parallel, mode, seen, writable):
    for info in parallel(mmap_mode=mode)(delayed(about)(np.ones(M)) for _ in range(2)):
        assert (info["kind"], info["mode"]) == ("memmap", seen)
        assert info["writable"] is writable


def test_s48_none_maps_nothing(parallel):
    out = parallel(mmap_mode=None)(delayed(write_first)(np.ones(M)) for _ in range(4))
    assert out == [-1.0] * 4


def keep_first(array):
    """Return what the array that this worker got first holds now."""
    if not hasattr(sys, "kept_by_test"):
        sys.kept_by_test = array
    return os.getpid(), float(sys.kept_by_test[0])


def call_with(array):
    run = Parallel(n_jobs=2, backend="processes", batch_size=1)
    return run(delayed(keep_first)(array) for _ in range(2))


def test_files_of_the_temp_folder_are_no_files_of_the_user(tmp_path):
    """A nested call must copy them: they are written again when its task has ended."""
    run = Parallel(n_jobs=2, temp_folder=tmp_path, pre_dispatch=1, batch_size=1)
    out = run(delayed(call_with)(np.full(M // 4, float(i))) for i in range(8))
    seen = {pair for pairs in out for pair in pairs}
    assert len(seen) == len({pid for pid, _ in seen})  # one value each, for ever
