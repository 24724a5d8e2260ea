"""Shared memory gets its pages with their content, whatever is there before."""

import os
import sys
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cypar.core._filling import leave_out_huge_pages
from cypar.core._segment import Segment
from cypar.core._written_pages import WrittenPages

PAGE = 4096
M = 1 << 20
TWO_THREADS = 16 * M  # from here on

linux = pytest.mark.skipif(sys.platform != "linux", reason="memfd is Linux's")


@pytest.fixture(scope="module")
def content():
    """Bytes that differ from page to page and are all there, so cause no faults."""
    return np.random.default_rng(3).integers(1, 256, 40 * M, dtype=np.uint8)


@pytest.fixture(autouse=True, params=["huge pages", "pages"])
def kind_of_pages(request):
    """Both where the system has huge ones that are free."""
    leave_out_huge_pages(0 if request.param == "huge pages" else 1_000_000)
    yield
    leave_out_huge_pages(0)


@pytest.fixture
def userfaultfd(content):
    """Skip where the system has none; what watches pages needs it, too."""
    low = content.ctypes.data
    watched = WrittenPages().watch(low, low + content.nbytes)
    if watched is None:
        pytest.skip("this system has no userfaultfd")
    watched.end(False)


@pytest.fixture
def segment():
    made = Segment()
    yield made
    made.close()


def copy_to(segment, offset, source):
    segment.reserve(offset + source.nbytes)
    segment.write(offset, source.ctypes.data, source.nbytes, True)


def check(segment, offset, source):
    """Compare what is in the file, not what is mapped here."""
    end = offset + source.nbytes
    assert os.pread(segment.fd, source.nbytes, offset) == source.tobytes()
    around = os.pread(segment.fd, offset, 0) + os.pread(segment.fd, PAGE, end)
    assert not any(around)


@linux
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    offset=st.integers(0, 3 * PAGE),
    begin=st.integers(0, 2 * PAGE),
    size=st.integers(TWO_THREADS - PAGE, TWO_THREADS + 3 * M),
)
def test_any_beginning_and_end(content, offset, begin, size):
    segment = Segment()
    source = content[begin : begin + size]
    copy_to(segment, offset, source)
    check(segment, offset, source)
    segment.close()


@linux
def test_pages_that_are_there_already(segment, content):
    """After a copy that has failed, any page may be."""
    source = content[: 2 * TWO_THREADS]
    segment.reserve(source.nbytes)
    for offset in (0, 5 * M + 100, source.nbytes - M, source.nbytes - 10):
        os.pwrite(segment.fd, b"old" * 3, offset)
    copy_to(segment, 0, source)
    check(segment, 0, source)


@linux
def test_a_second_copy_grows_the_first_one(segment, content):
    copy_to(segment, 0, content[: M + 5])
    copy_to(segment, 0, content[: 2 * TWO_THREADS])
    check(segment, 0, content[: 2 * TWO_THREADS])
    copy_to(segment, 0, content[8 * M :])
    check(segment, 0, content[8 * M :])


@linux
def test_without_a_descriptor_for_the_filler(segment, content):
    resource = pytest.importorskip("resource")
    segment.reserve(content.nbytes)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        copy_to(segment, 0, content)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    check(segment, 0, content)


@linux
def test_neither_thread_takes_page_faults(segment, content, userfaultfd):
    resource = pytest.importorskip("resource")
    segment.reserve(content.nbytes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    copy_to(segment, 0, content)
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert taken < content.nbytes // PAGE // 20  # one for each page of the half: 5,120


@linux
def test_memory_is_as_any_other_afterwards(segment, content):
    """Pages beyond the copy come by themselves again."""
    segment.reserve(4 * TWO_THREADS)
    before = len(os.listdir("/proc/self/fd"))
    copy_to(segment, 0, content[:TWO_THREADS])
    assert len(os.listdir("/proc/self/fd")) == before
    assert segment.read(3 * TWO_THREADS, 100) == bytes(100)
    assert segment.read(TWO_THREADS - 50, 100) == (
        content[TWO_THREADS - 50 : TWO_THREADS].tobytes() + bytes(50)
    )


@linux
def test_beside_other_pieces_of_a_slab(segment, content):
    """The first huge page begins before the piece, and may hold another one."""
    segment.reserve(3 * TWO_THREADS)
    segment.write(0, content.ctypes.data, 1000, False)
    offset = 1 << 10
    source = content[: 5 * M + 77]
    segment.write(offset, source.ctypes.data, source.nbytes, False)
    after = offset + source.nbytes + 11
    segment.write(after, content.ctypes.data, TWO_THREADS, True)
    assert segment.read(0, 1000) == content[:1000].tobytes()
    assert segment.read(offset, source.nbytes) == source.tobytes()
    assert segment.read(after, TWO_THREADS) == content[:TWO_THREADS].tobytes()
    assert segment.read(after - 11, 11) == bytes(11)


@linux
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # it has threads
def test_a_process_forked_meanwhile_keeps_no_page_back(content):
    """It has a copy of the descriptor that pages are made with."""
    ended = threading.Event()
    segments = []

    def fill_again_and_again():
        while not ended.is_set():
            made = Segment()
            made.reserve(content.nbytes)
            made.write(0, content.ctypes.data, content.nbytes, True)
            segments.append(made)
            if len(segments) > 3:
                segments.pop(0).close()

    thread = threading.Thread(target=fill_again_and_again)
    thread.start()
    ours, theirs = os.pipe()
    children = []
    try:
        for _ in range(8):
            pid = os.fork()
            if pid == 0:
                try:
                    os.close(theirs)
                    os.read(ours, 1)  # until the parent has looked
                finally:
                    os._exit(0)
            children.append(pid)
        ended.set()
        thread.join()
        with open("/proc/self/smaps") as maps:
            flags = [line.split() for line in maps if line.startswith("VmFlags")]
    finally:
        ended.set()
        os.close(ours)
        os.close(theirs)
        for pid in children:
            os.waitpid(pid, 0)
    assert not [names for names in flags if "um" in names]
    for made in segments:
        check(made, 0, content)
        made.close()
