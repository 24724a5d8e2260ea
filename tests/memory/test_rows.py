"""Rows S46, S51, S55, S56, and what kind of memory the segments are."""

import fcntl
import os
import sys
from fractions import Fraction

import numpy as np
import pytest

from cypar import Parallel, delayed, dump, load
from cypar.core._segment import Segment

M = 1 << 20
N = M // 8 + 1000  # elements of 8 bytes, above the default threshold

MAPPED = {
    "structured": lambda: np.ones(N, [("a", "i4"), ("b", "f4")]),
    "bool": lambda: np.arange(8 * N) % 3 == 0,
    "datetime": lambda: np.arange(N).astype("M8[s]"),
    "fixed text": lambda: np.arange(N // 4).astype("U20"),
    "big-endian": lambda: np.arange(N, dtype=">i8"),
}


def arrived(array):
    return isinstance(array, np.memmap), array.dtype, array.tolist()


@pytest.mark.parametrize("make", MAPPED.values(), ids=MAPPED)
def test_s51_arrays_without_python_objects_are_mapped(parallel, make):
    array = make()
    out = parallel()(delayed(arrived)(array) for _ in range(2))
    assert out == [(True, array.dtype, array.tolist())] * 2


@pytest.mark.parametrize("max_nbytes", [1, "1M"])
def test_s51_object_arrays_are_pickled(parallel, max_nbytes):
    fractions = [Fraction(i, 7) for i in range(99)]
    array = np.array((fractions * (N // 99 + 1))[:N], dtype=object)
    records = np.array([(1, "x")] * N, "i8, O")
    run = parallel(max_nbytes=max_nbytes)
    for given in (array, records):
        for mapped, dtype, values in run(delayed(arrived)(given) for _ in range(2)):
            assert (mapped, dtype) == (False, given.dtype)
            assert values == given.tolist()


def test_s46_containers_are_walked_however_deep(parallel, fresh_arena):
    array = np.ones(N)
    nested = [{"a": (array, [array])}, {"b": {"c": array}}]

    def same(outer):
        first = outer[0]["a"][0]
        inner = outer[0]["a"][1][0], outer[1]["b"]["c"]
        return all(x is first for x in inner), type(first).__name__

    assert parallel()(delayed(same)(nested) for _ in range(8)) == [(True, "memmap")] * 8
    assert fresh_arena.counters.cold == 1


def test_s55_an_array_may_be_freed_after_dump(parallel, tmp_path):
    array = np.arange(1e6)
    total = float(array.sum())
    dump(array, tmp_path / "x")
    del array
    stored = load(tmp_path / "x", mmap_mode="r")
    out = parallel()(delayed(np.sum)(stored) for _ in range(4))
    assert out == [total] * 4


@pytest.mark.skipif(sys.platform == "win32", reason="mapped files cannot be deleted")
def test_s55_the_users_folder_is_the_users_to_clean(parallel, tmp_path):
    dump(np.arange(1e6), tmp_path / "x")
    stored = load(tmp_path / "x", mmap_mode="r")
    parallel(temp_folder=tmp_path)(delayed(np.sum)(stored) for _ in range(2))
    assert os.listdir(tmp_path) == ["x"]
    os.unlink(tmp_path / "x")
    assert stored[5] == 5


def test_s56_threads_copy_nothing(fresh_arena):
    array = np.ones(N)
    run = Parallel(n_jobs=2, prefer="threads")
    assert all(a is array for a in run(delayed(lambda a: a)(array) for _ in range(4)))
    assert fresh_arena.segments == []


@pytest.mark.skipif(sys.platform != "linux", reason="sealed memory is Linux's")
def test_segments_are_private_sealed_and_not_executable():
    segment = Segment()
    try:
        segment.reserve(1000)
        seals = fcntl.fcntl(segment.fd, fcntl.F_GET_SEALS)
        assert seals & fcntl.F_SEAL_SHRINK
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(segment.fd, 10)
        assert fcntl.fcntl(segment.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        if tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 3):
            assert not os.fstat(segment.fd).st_mode & 0o111
    finally:
        segment.close()


@pytest.mark.parametrize("begin", [0, 1, 5, 8, 24])
def test_what_is_aligned_stays_aligned(parallel, begin):
    """Also elements of a view whose whole begins at an odd address."""
    raw = np.zeros(2 * M + 64, "u1")
    odd = np.frombuffer(raw.data, "u1", offset=begin)
    skip = -odd.ctypes.data % 64
    view = odd[skip : skip + M + 64].view("f8")
    assert view.flags.aligned
    view[:] = np.arange(view.size)

    def look(array):
        return array.ctypes.data % 16, array.flags.aligned, float(array.sum())

    expected = (0, True, float(view.sum()))
    assert parallel()(delayed(look)(view) for _ in range(3)) == [expected] * 3
