"""Memory that the kernel watches: no write to it is missed."""

import ctypes
import gc
import mmap
import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cypar import Parallel, delayed
from cypar.backends.pool.supervisor import pool
from cypar.core import _written_pages
from cypar.core._written_pages import (
    WrittenPages,
    is_private,
    is_private_by_text,
    watched_ranges,
)

PAGE = mmap.PAGESIZE
M = 1 << 20
ROW = 512  # elements of 8 bytes in 4 KiB


def is_supported():
    pages = WrittenPages()
    memory = private_memory(2)
    watched = pages.watch(*bounds(memory))
    if watched is not None:
        watched.end(False)
    return watched is not None


def private_memory(n_pages):
    """Return an array that begins and ends with a page."""
    memory = mmap.mmap(-1, n_pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    array = np.frombuffer(memory, "u1")
    array[:] = np.arange(array.size, dtype="u1")
    return array


def bounds(array):
    return array.ctypes.data, array.ctypes.data + array.nbytes


def total(array):
    return float(array.sum())


def first(array):
    return float(array[0])


supported = pytest.mark.skipif(
    not is_supported(), reason="this kernel does not tell which pages were written to"
)


@pytest.fixture
def pages():
    found = WrittenPages()
    yield found
    for watched in list(found.ranges):
        watched.end(False)
    assert found.descriptors() == set()


@pytest.fixture
def no_ranges(fresh_arena):
    """Nothing is watched before and after, and any memory may be in between."""
    assert watched_ranges() == []
    _written_pages.forget_patience()
    yield
    pool.shutdown()
    gc.collect()
    fresh_arena.trim(0)
    assert watched_ranges() == []
    assert _written_pages.descriptors() == set()


# ---- a range by itself -----------------------------------------------------------


@supported
@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 32 * PAGE - 1),  # where to write
            st.integers(0, 3),  # how many bytes
            st.booleans(),  # other values, or the same
            st.tuples(st.integers(0, 32), st.integers(0, 32)),  # pages asked for
        ),
        max_size=12,
    )
)
def test_the_answer_is_that_of_comparing_all_bytes(steps):
    pages = WrittenPages()
    array = private_memory(32)
    copy = array.copy()
    watched = pages.watch(*bounds(array))
    try:
        for place, n, changes, (begin, end) in steps:
            array[place : place + n] += changes
            low, high = sorted((begin * PAGE, end * PAGE))
            base = array.ctypes.data
            answer = watched.compare_with(copy, base + low, base + high)
            part = slice(low, high)
            expected = np.array_equal(array[part], copy[part])
            if not watched.is_live:  # most of the pages were written to
                assert answer in (None, expected)
                break
            assert answer == expected
            if not expected:
                break  # the copy is given up
    finally:
        watched.end(False)


@supported
@pytest.mark.parametrize("write", ["slice", "readinto", "os.readv", "thread"])
def test_writes_of_all_kinds_are_seen(pages, tmp_path, in_threads, write):
    array = private_memory(64)
    copy = array.copy()
    watched = pages.watch(*bounds(array))
    assert watched.compare_with(copy) is True
    part = array[5 * PAGE + 100 : 5 * PAGE + 200]
    (tmp_path / "data").write_bytes(bytes(100))
    if write == "slice":
        part[:] = 0
    elif write == "thread":
        in_threads(lambda: part.fill(0))
    else:
        with open(tmp_path / "data", "rb", buffering=0) as file:
            if write == "readinto":
                file.readinto(part)
            else:
                os.readv(file.fileno(), [part])
    assert not part.any()
    assert watched.compare_with(copy) is False


@supported
def test_a_write_is_reported_once_and_the_next_one_again(pages):
    array = private_memory(64)
    copy = array.copy()
    watched = pages.watch(*bounds(array))
    for _ in range(3):
        array[7 * PAGE] += 1
        assert watched.compare_with(copy) is False
        array[7 * PAGE] -= 1
        assert watched.compare_with(copy) is True
        assert watched.compare_with(copy) is True


@supported
def test_pages_given_back_to_the_system_are_seen(pages):
    memory = mmap.mmap(-1, 64 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    array = np.frombuffer(memory, "u1")
    array[:] = 1
    copy = array.copy()
    watched = pages.watch(*bounds(array))
    memory.madvise(mmap.MADV_DONTNEED, 3 * PAGE, PAGE)
    assert array[3 * PAGE] == 0
    assert watched.compare_with(copy) is False


@supported
def test_memory_that_is_gone_is_not_known(pages):
    libc = ctypes.CDLL(None)
    array = private_memory(64)
    low, high = bounds(array)
    copy = array.copy()
    watched = pages.watch(low, high)
    libc.mmap.restype = ctypes.c_void_p
    ints = [ctypes.c_int] * 3
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *ints, ctypes.c_long]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10  # MAP_FIXED
    prot = mmap.PROT_READ | mmap.PROT_WRITE
    assert libc.mmap(low, high - low, prot, flags, -1, 0) == low
    assert watched.compare_with(copy) is None
    assert not watched.is_live
    assert pages.ranges == []


@supported
def test_ranges_never_share_pages(pages):
    array = private_memory(64)
    low, high = bounds(array)
    assert pages.watch(low, low + 10 * PAGE + 1).high == low + 10 * PAGE
    assert pages.watch(low + 5 * PAGE, high) is None
    other = pages.watch(low + 10 * PAGE, high)
    assert (other.low, other.high) == (low + 10 * PAGE, high)
    other.end(False)
    other.end(False)
    assert len(pages.ranges) == 1


@supported
def test_memory_of_others_is_never_watched(pages, tmp_path):
    anonymous = mmap.mmap(-1, 16 * PAGE)  # shared with children
    (tmp_path / "data").write_bytes(bytes(16 * PAGE))
    with open(tmp_path / "data", "r+b") as file:
        shared = mmap.mmap(file.fileno(), 0)
        private = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    for memory in (anonymous, shared, private):
        array = np.frombuffer(memory, "u1")
        assert not is_private(*bounds(array))
        with open("/proc/self/maps", "rb") as maps:
            assert not is_private_by_text(maps.fileno(), *bounds(array))
        assert pages.watch(*bounds(array)) is None
    assert pages.descriptors() == set()


def test_own_memory_is_told_from_that_of_others():
    array = private_memory(16)
    low, high = bounds(array)
    for begin, end in ((low, high), (low + PAGE, high), (low, low + 1)):
        assert is_private(begin, end)
        with open("/proc/self/maps", "rb") as maps:
            assert is_private_by_text(maps.fileno(), begin, end)
    for begin, end in ((low, low + (1 << 46)), (0, PAGE), (8, 16)):
        assert not is_private(begin, end)
        with open("/proc/self/maps", "rb") as maps:
            assert not is_private_by_text(maps.fileno(), begin, end)


@supported
def test_too_many_ranges(pages):
    """The one that was not asked about for longest makes room."""
    array = private_memory(2 * 65)
    low = array.ctypes.data
    watched = [
        pages.watch(low + 2 * i * PAGE, low + (2 * i + 1) * PAGE) for i in range(64)
    ]
    assert watched[0].compare_with(array[:PAGE]) is True
    pages.watch(low + 128 * PAGE, low + 129 * PAGE)
    assert [w.is_live for w in watched[:3]] == [True, False, True]
    assert len(pages.ranges) == 64


@supported
def test_a_lack_of_descriptors_is_no_refusal(pages):
    resource = pytest.importorskip("resource")
    array = private_memory(16)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        assert pages.watch(*bounds(array)) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not pages.is_refused
    while pages.watch(*bounds(array)) is None:
        pass


@supported
def test_memory_that_changes_is_left_alone_longer_each_time(pages):
    array = private_memory(16)
    left_out = []
    for _ in range(4):
        n = 0
        while (watched := pages.watch(*bounds(array))) is None:
            n += 1
        left_out.append(n)
        watched.end(True)
    assert left_out == [0, 1, 2, 4]


@supported
def test_a_forked_child_neither_watches_nor_disturbs(no_ranges):
    array = np.ones(5 * M)
    with Parallel(n_jobs=2) as parallel:
        parallel(delayed(total)(array) for _ in range(4))
        [(low, high)] = watched_ranges()
        pid = os.fork()
        if pid == 0:
            ok = watched_ranges() == [] and _written_pages.descriptors() == set()
            array[:] = 2
            os._exit(0 if ok else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert watched_ranges() == [(low, high)]
        array[1000] = 5
        assert parallel(delayed(total)(array) for _ in range(2)) == [5.0 * M + 4] * 2


# ---- in calls ----------------------------------------------------------------------


@supported
def test_no_change_is_missed(parallel, no_ranges):
    """One byte of 40 MB, between two tasks of one call."""
    array = np.zeros(40 * M, "u1")
    array[0] = 1

    def tasks():
        for i in range(40):
            if i % 3:
                array[i * 999_983] += 1
            yield delayed(total)(array)

    expected = [float(1 + i - i // 3) for i in range(40)]
    assert parallel()(tasks()) == expected


@supported
def test_it_is_watched_from_its_copy_on_and_in_later_calls(parallel, no_ranges):
    array = np.ones(5 * M)
    with parallel() as run:
        for _ in range(3):
            assert run(delayed(total)(array) for _ in range(2)) == [5.0 * M] * 2
            [(low, high)] = watched_ranges()
            assert array.ctypes.data <= low
            assert high <= array.ctypes.data + array.nbytes
            assert high - low > array.nbytes - 2 * PAGE
        array[2 * M] = 11
        assert run(delayed(total)(array) for _ in range(2)) == [5.0 * M + 10] * 2


@supported
@pytest.mark.parametrize("place", [0, 1, 511, 600 * 1024, -600, -2, -1])
def test_the_ends_of_an_array_share_their_pages_with_other_memory(no_ranges, place):
    memory = np.ones(6 * M + 2000)
    array = memory[1000:-1000]
    with Parallel(n_jobs=2) as run:
        run(delayed(total)(array) for _ in range(4))
        assert watched_ranges()
        array[place] += 1
        assert run(delayed(total)(array) for _ in range(3)) == [6.0 * M + 1] * 3


@supported
def test_views_are_compared_by_their_part(no_ranges):
    array = np.ones(8 * M)
    half = array[: 5 * M]
    with Parallel(n_jobs=2) as run:
        run(delayed(total)(array) for _ in range(4))
        for i in range(1, 4):
            array[-i] += 1  # not in the half
            array[i * 4000] += 1
            expected = float(5 * M + i)
            assert run(delayed(total)(half) for _ in range(2)) == [expected] * 2
            expected = float(8 * M + 2 * i)
            assert run(delayed(total)(array) for _ in range(2)) == [expected] * 2


@supported
def test_an_array_that_changes_before_each_call_is_not_watched_for_long(no_ranges):
    array = np.zeros(5 * M)
    watched = []
    with Parallel(n_jobs=2) as run:
        for i in range(12):
            array += 1
            expected = [float(array.size * (i + 1))] * 4
            assert run(delayed(total)(array) for _ in range(4)) == expected
            watched.append(bool(watched_ranges()))
    assert watched[0]
    assert sum(watched) <= 5


@supported
def test_a_buffer_that_is_refilled_is_not_watched_for_long(no_ranges):
    buffer = np.empty(5 * M)
    watched = []

    def tasks():
        for i in range(20):
            buffer[:] = i
            yield delayed(total)(buffer)
            watched.append(bool(watched_ranges()))

    expected = [float(i * buffer.size) for i in range(20)]
    assert Parallel(n_jobs=2)(tasks()) == expected
    assert watched[0]
    assert sum(watched) <= 6


@supported
def test_freed_memory_is_not_watched(no_ranges):
    array = np.ones(40 * M // 8)
    with Parallel(n_jobs=2) as run:
        run(delayed(first)(array) for _ in range(4))
        assert watched_ranges()
        for i in range(6):
            del array
            array = np.full(40 * M // 8, float(i))
            assert run(delayed(first)(array) for _ in range(4)) == [float(i)] * 4


def test_threads_that_use_one_array_at_once(no_ranges, in_threads):
    array = np.ones(8 * M)

    def calls():
        with Parallel(n_jobs=2) as run:
            for _ in range(5):
                assert run(delayed(total)(array) for _ in range(5)) == [8.0 * M] * 5

    in_threads(calls, calls, calls)
    array[5] = 2
    out = Parallel(n_jobs=2)(delayed(total)(array) for _ in range(2))
    assert out == [8.0 * M + 1] * 2


def test_where_it_is_forbidden_all_bytes_are_compared(run_script, system_call_filter):
    run_script(
        f"""{system_call_filter}
refuse(USERFAULTFD, EPERM)
import numpy as np
from cypar import Parallel, delayed
from cypar.core._written_pages import WrittenPages, descriptors, watched_ranges

array = np.ones(5 << 20)
with Parallel(n_jobs=2) as run:
    for i in range(4):
        array[i * 1000] += 1
        expected = [float(array.sum())] * 5
        assert run(delayed(np.sum)(array) for _ in range(5)) == expected
assert watched_ranges() == [] and descriptors() == set()
pages = WrittenPages()
assert pages.watch(array.ctypes.data, array.ctypes.data + array.nbytes) is None
assert pages.is_refused
"""
    )


@supported
def test_an_answer_that_is_asked_for_twice_at_once_is_not_shared(no_ranges, in_threads):
    """One scan would take from the other what it must see."""
    array = np.ones(8 * M)
    ready = threading.Barrier(2)

    def call(run):
        def tasks():
            ready.wait()
            yield delayed(total)(array)

        return run(tasks())[0]

    with Parallel(n_jobs=2) as one, Parallel(n_jobs=2) as two:
        for run in (one, two):
            run(delayed(total)(array) for _ in range(4))
        for i in range(20):
            array[i * 7] += 1
            found = in_threads(lambda: call(one), lambda: call(two))
            assert found == [8.0 * M + i + 1] * 2
