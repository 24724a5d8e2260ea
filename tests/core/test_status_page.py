"""core/_status_page: each task is claimed by one side, and both know by which."""

import os
import signal
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cypar.core._status_page import (
    MAX_BATCH,
    MAX_SEQUENCE,
    StatusPage,
    die_with_pipe,
    listen,
    process_fd,
    read_umask,
    spin_for_news,
    stop_listening,
)

SLOTS = pytest.mark.parametrize("slot", [0, 1])
MINUTE_NS = 60_000_000_000


def columns(n):
    return [(i,) for i in range(n)]


# ---- the mapping -----------------------------------------------------------------


def test_two_pages_on_one_descriptor_are_the_same_memory(page):
    other = StatusPage(os.dup(page.fd))
    page.publish(1, 7, 5)
    assert other.unclaimed(1) == 5
    assert (other.unclaimed(0), other.claimed(1)) == (0, 0)


def test_the_mapping_outlives_its_descriptor(page):
    other = StatusPage(os.dup(page.fd))
    for _ in range(2):
        page.close_fd()
    assert page.fd == -1
    page.publish(0, 1, 3)
    assert other.unclaimed(0) == 3


def test_a_page_closes_its_descriptor(page):
    fd = os.dup(page.fd)
    other = StatusPage(fd)
    del other
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_what_is_no_page_is_refused():
    read, write = os.pipe()
    with pytest.raises(OSError, match="cannot map the memory"):
        StatusPage(read)  # closes it
    os.close(write)


# ---- claims ----------------------------------------------------------------------


@SLOTS
def test_a_worker_claims_the_tasks_in_order(page, worker, slot):
    seen = []

    def task(i):
        seen.append((i, page.claimed(slot), page.unclaimed(slot)))

    page.publish(slot, 1, 4)
    worker.runner.run_columns(slot, 1, task, columns(4))
    assert seen == [(0, 1, 3), (1, 2, 2), (2, 3, 1), (3, 4, 0)]
    assert (page.claimed(slot), page.unclaimed(slot)) == (4, 0)


def test_the_slots_are_independent(page, worker):
    ran = []
    page.publish(0, 1, 3)
    page.publish(1, 1, 2)
    assert page.recall(0, 0) == (0, 3)
    worker.runner.run_columns(1, 1, ran.append, columns(2))
    worker.runner.run_columns(0, 1, ran.append, columns(3))
    assert ran == [0, 1]


def test_the_largest_batch_can_be_published_and_recalled(page):
    page.publish(0, MAX_SEQUENCE, MAX_BATCH)
    assert page.unclaimed(0) == MAX_BATCH
    assert page.recall(0, 5) == (5, MAX_BATCH)
    assert page.unclaimed(0) == 5


def test_the_time_of_the_running_task_is_known(page, worker):
    assert page.running_ns() == 0
    times = []
    page.publish(0, 1, 2)
    worker.runner.run_columns(
        0, 1, lambda i: times.append(page.running_ns()), columns(2)
    )
    assert all(0 < ns < MINUTE_NS for ns in times)
    assert page.running_ns() == 0


# ---- recalls ---------------------------------------------------------------------


@given(n=st.integers(0, 30), keeps=st.lists(st.integers(0, 30), max_size=4))
def test_recalled_positions_are_the_last_ones(n, keeps):
    page = StatusPage()
    page.publish(0, 1, n)
    left = n
    for keep in keeps:
        first, end = page.recall(0, keep)
        assert (first, end) == (min(keep, left), left)
        left = first
        assert page.unclaimed(0) == left


def test_a_batch_that_was_recalled_before_its_start_runs_nothing(page, worker):
    ran, flushed = [], []
    worker.on_flush = lambda: flushed.append(1)
    page.publish(0, 1, 3)
    assert page.recall(0, 0) == (0, 3)
    worker.runner.run_columns(0, 1, ran.append, columns(3))
    assert ran == []
    assert flushed == [1]  # the parent is told that the batch is over


def test_nothing_can_be_recalled_after_the_end(page, worker):
    page.publish(0, 1, 3)
    worker.runner.run_columns(0, 1, abs, columns(3))
    assert page.recall(0, 0) == (3, 3)


@given(
    n=st.integers(1, 30),
    recalls=st.dictionaries(
        st.integers(0, 29), st.lists(st.integers(0, 10), max_size=2), max_size=6
    ),
)
def test_each_position_is_run_or_recalled(make_worker, n, recalls):
    page = StatusPage()
    worker = make_worker(page)
    ran, recalled = [], []

    def task(i):  # the parent acts while this task runs
        ran.append(i)
        for keep in recalls.get(i, ()):
            recalled.extend(range(*page.recall(0, keep)))

    page.publish(0, 1, n)
    worker.runner.run_columns(0, 1, task, columns(n))
    assert ran == [*range(len(ran))]
    assert sorted(ran + recalled) == [*range(n)]


def test_each_position_is_run_or_recalled_by_threads(page, worker):
    n = 2000
    ran, recalled = [], []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    page.publish(0, 1, n)
    thread = threading.Thread(
        target=worker.runner.run_columns, args=(0, 1, ran.append, columns(n))
    )
    thread.start()
    while thread.is_alive():
        recalled.extend(range(*page.recall(0, page.unclaimed(0) * 2 // 3)))
    thread.join()
    sys.setswitchinterval(interval)
    assert sorted(ran + recalled) == [*range(n)]


def test_each_position_is_run_or_recalled_by_processes(page, run_script):
    """Truly at the same time: 300 batches of 200 tasks, a race for each one."""
    script = """
        import os, sys
        from cypar.core._process_loop import BatchRunner
        from cypar.core._status_page import StatusPage

        def ignore(*args):
            return b""

        page = StatusPage(os.open(sys.argv[1], os.O_RDWR))
        runner = BatchRunner(page, ignore, ignore, ignore, ignore)
        for sequence in range(1, 301):
            while page.rings() < sequence:
                pass
            ran = []
            runner.run_columns(0, sequence, ran.append, [(i,) for i in range(200)])
            print(*ran)
    """
    recalled = []
    over = threading.Event()

    def recall():
        for sequence in range(1, 301):
            page.publish(0, sequence, 200)
            page.ring()
            while page.claimed(0) == 0 and not over.is_set():
                pass
            taken = set()
            while (left := page.unclaimed(0)) > 0:
                taken.update(range(*page.recall(0, left * 3 // 4)))
            recalled.append(taken)
            while page.running_ns() and not over.is_set():
                pass

    thread = threading.Thread(target=recall)
    thread.start()
    try:
        done = run_script(script, f"/proc/{os.getpid()}/fd/{page.fd}")
    finally:
        over.set()
        thread.join()
    lines = done.stdout.splitlines()
    for line, taken in zip(lines, recalled, strict=True):
        ran = [*map(int, line.split())]
        assert ran == [*range(len(ran))]
        assert taken == {*range(len(ran), 200)}


# ---- sequence numbers --------------------------------------------------------------


@SLOTS
@pytest.mark.parametrize(("old", "new"), [(1, 2), (MAX_SEQUENCE, 0), (3, 2)])
def test_an_old_batch_claims_nothing_of_a_new_one(page, worker, slot, old, new):
    ran = []
    page.publish(slot, old, 3)
    page.recall(slot, 0)
    page.publish(slot, new, 2)
    worker.runner.run_columns(slot, old, ran.append, columns(3))
    assert ran == []
    assert page.unclaimed(slot) == 2
    worker.runner.run_columns(slot, new, ran.append, columns(2))
    assert ran == [0, 1]


# ---- messages --------------------------------------------------------------------


def test_rings_are_counted(page, worker):
    assert worker.page.rings() == 0
    for _ in range(3):
        page.ring()
    assert worker.page.rings() == 3


def test_a_spin_for_a_ring_ends_with_one(page, worker):
    seen = worker.page.rings()
    assert worker.page.spin_for_ring(seen, 1000) is False
    page.ring()
    assert worker.page.spin_for_ring(seen, MINUTE_NS) is True
    assert worker.page.spin_for_ring(worker.page.rings(), 0) is False


def test_a_ring_from_another_thread_ends_a_spin(page, worker):
    thread = threading.Thread(target=page.ring)
    seen = worker.page.rings()
    thread.start()
    assert worker.page.spin_for_ring(seen, MINUTE_NS) is True
    thread.join()


def run_one(page, worker, sequence=1):
    page.publish(0, sequence, 1)
    worker.runner.run_columns(0, sequence, abs, [(1,)])


def test_the_worker_knows_whether_its_parent_listens(page, worker):
    assert not worker.page.is_listening()
    assert listen([page]) is False
    assert worker.page.is_listening()
    stop_listening([page])
    assert not worker.page.is_listening()


def test_news_from_before_listening_are_not_missed(page, worker):
    run_one(page, worker)
    assert listen([StatusPage(), page]) is True


def test_a_spin_for_news_ends_with_a_record_on_any_page(page, worker):
    pages = [StatusPage(), page]
    assert spin_for_news(pages, 1000) is False
    run_one(page, worker)
    assert spin_for_news(pages, 0) is True
    assert spin_for_news(pages, MINUTE_NS) is True
    assert spin_for_news([StatusPage()], 0) is False


def test_more_pages_than_a_spin_looks_at_are_no_error(page):
    assert spin_for_news([page] * 200, 0) is False
    assert listen([page] * 200) is False
    stop_listening([page] * 200)


def test_without_pages_there_are_no_news():
    assert spin_for_news([], 0) is False
    assert listen([]) is False


def test_what_is_no_page_has_no_news():
    for function in (listen, stop_listening, lambda pages: spin_for_news(pages, 0)):
        with pytest.raises(TypeError):
            function([object()])


# ---- system calls ------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o000])
def test_the_umask_is_read_and_kept(mask):
    before = os.umask(mask)
    try:
        assert [read_umask(), read_umask()] == [mask, mask]
    finally:
        assert os.umask(before) == mask


def test_a_process_fd_is_readable_at_the_end_of_the_process(run_script):
    script = """
        import os, select
        from cypar.core._status_page import process_fd

        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        fd = process_fd(pid)
        assert fd >= 0
        assert not select.select([fd], [], [], 0)[0]
        os.close(write)
        assert select.select([fd], [], [], 20)[0]
        os.waitpid(pid, 0)
        print("ended")
    """
    assert run_script(script).stdout == "ended\n"


def test_there_is_no_descriptor_of_a_process_that_does_not_exist():
    assert process_fd(2**30) == -1


def test_die_with_pipe_kills_at_the_end_of_the_pipe(run_script):
    script = """
        import os, signal
        from cypar.core._status_page import die_with_pipe

        read, write = os.pipe()
        assert die_with_pipe(read)
        print("lives", flush=True)
        os.close(write)
        signal.pause()
    """
    done = run_script(script, returncode=-signal.SIGKILL)
    assert done.stdout == "lives\n"


def test_die_with_pipe_says_when_it_cannot():
    assert die_with_pipe(-1) is False
