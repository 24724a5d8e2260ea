"""Native loops around forks and at the interpreter's end; idle costs."""

import threading
import time
from pathlib import Path

import pytest

from cypar.core import _helper_threads

SETUP = """
import array, os, sys, threading, warnings
sys.path.insert(0, sys.argv[1])
import engine_bodies as bodies
import group_bodies as groups

def check(n_jobs=3):
    counts = array.array("i", [0] * 1000)
    bodies.cover(counts, 1000, 0, n_jobs, burn=50)
    assert set(counts) == {1}
    assert groups.run_group(100, n_jobs, 50) == 100

def wait_for(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


@pytest.fixture
def run_bodies(run_script, bodies, groups):
    """Return a function that runs a program text with `bodies` and `groups`."""
    folder = Path(bodies.__file__).parent

    def run(text, before="", **options):
        return run_script(before + SETUP + text, folder, **options).stdout

    return run


def test_loops_run_in_a_forked_child(run_bodies):
    """Idle helpers are gone before the fork, so nothing warns of threads."""
    text = """
warnings.simplefilter("error")
for _ in range(20):
    check()
    pid = os.fork()
    check()
    if pid == 0:
        os._exit(0)
    wait_for(pid)
print("done")
"""
    assert run_bodies(text) == "done\n"


def test_a_fork_while_another_thread_is_in_a_loop(run_bodies):
    text = """
warnings.simplefilter("ignore")
thread = threading.Thread(target=bodies.sleep_items, args=(400, 1000, 3))
thread.start()
for _ in range(10):
    pid = os.fork()
    check()
    if pid == 0:
        os._exit(0)
    wait_for(pid)
thread.join()
print("done")
"""
    assert run_bodies(text) == "done\n"


def test_a_fork_inside_a_loop_fails_in_the_child_only(run_bodies):
    text = """
warnings.simplefilter("ignore")
pids, parent = [], os.getpid()

def fork_once(begin, end):
    if begin == 0 and not pids:
        pids.append(os.fork())

try:
    bodies.call_at_once(fork_once, 3)
    failed = False
except RuntimeError as exc:
    failed = "forked inside" in str(exc)
assert failed == (os.getpid() != parent)
check()
if failed:
    os._exit(0)
wait_for(pids[0])
print("done")
"""
    assert run_bodies(text) == "done\n"


def test_loops_are_serial_at_the_interpreters_end(run_bodies):
    """What was registered before cypar's own exit function runs after it."""
    before = """
import atexit
late = []
atexit.register(lambda: late[0]())
"""
    text = """
from cypar.core import _helper_threads

def at_exit():
    assert _helper_threads.is_shutting_down()
    check()
    assert _helper_threads.live_count() == 0
    print("done")

late.append(at_exit)
check()
"""
    assert run_bodies(text, before) == "done\n"


def test_a_loop_in_a_daemon_thread_does_not_hold_up_the_exit(run_bodies):
    text = """
began = threading.Event()
def work():
    began.set()
    bodies.sleep_items(100_000, 1000, 3)
threading.Thread(target=work, daemon=True).start()
began.wait()
print("done")
"""
    assert run_bodies(text, timeout_s=10) == "done\n"


@pytest.mark.slow
def test_nothing_is_burnt_after_a_loop(bodies):
    for _ in range(5):
        bodies.meet(4, 4)
    threading.Event().wait(0.01)
    before = time.process_time()
    threading.Event().wait(2.0)
    assert time.process_time() - before < 0.005


def test_helpers_park_soon_after_a_loop(bodies):
    bodies.meet(4, 4)
    deadline = time.monotonic() + 2
    while _helper_threads.parked_count() < _helper_threads.live_count():
        assert time.monotonic() < deadline
        time.sleep(0.001)
