"""The end of the interpreter: status 0, nothing on stderr, no process left."""

import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

START = """
import atexit, os, sys, threading, time
from cypar import Parallel, delayed

def pids(backend="processes"):
    def task():
        time.sleep(0.02)
        return os.getpid()
    found = Parallel(n_jobs=2, backend=backend)(delayed(task)() for _ in range(4))
    print(*set(found), flush=True)
    return found

def half_read(backend="processes", n=3000):
    generator = Parallel(n_jobs=2, backend=backend, return_as="generator")(
        delayed(abs)(-i) for i in range(n)
    )
    next(generator)
    return generator
"""


@pytest.fixture
def ends_well(run_python, ended, tmp_path):
    """Return a function that runs a program and checks how it ended."""

    def check(text):
        script = tmp_path / "program.py"
        script.write_text(START + text)
        done = run_python(script, timeout_s=20)
        assert done.stderr == ""
        pids = [int(word) for word in done.stdout.split() if word.isdigit()]
        deadline = time.monotonic() + 1
        while not all(map(ended, pids)):
            assert time.monotonic() < deadline, f"orphans among {pids}"
            time.sleep(0.01)
        return done.stdout

    return check


@pytest.mark.parametrize("backend", ["processes", "threading"])
def test_live_pool(ends_well, backend):
    ends_well(
        f"pids({backend!r})\n"
        if backend == "processes"
        else "half_read('threading').close()\n"
    )


@pytest.mark.parametrize("backend", ["processes", "threading"])
def test_half_read_generator(ends_well, backend):
    ends_well(f"generator = half_read({backend!r})\n")


@pytest.mark.parametrize("backend", ["processes", "threading"])
def test_half_read_generator_in_a_cycle(ends_well, backend):
    ends_well(
        f"class Box: pass\nbox = Box()\nbox.box = box\nbox.g = half_read({backend!r})\n"
    )


def test_generator_whose_tasks_still_run(ends_well):
    ends_well(
        "generator = Parallel(n_jobs=2, return_as='generator')(\n"
        "    delayed(time.sleep)(0 if i == 0 else 30) for i in range(4))\n"
        "next(generator)\n"
    )


@pytest.mark.parametrize("backend", ["processes", "threading"])
@pytest.mark.parametrize("warm", [True, False])
def test_call_in_atexit(ends_well, backend, warm):
    out = ends_well(
        (f"pids({backend!r})\n" if warm and backend == "processes" else "")
        + "def late():\n"
        f"    out = Parallel(n_jobs=2, backend={backend!r})(\n"
        "        delayed(pow)(i, 2) for i in range(4))\n"
        "    print('late', out)\n"
        "atexit.register(late)\n"
    )
    assert "late [0, 1, 4, 9]" in out


@pytest.mark.parametrize("backend", ["processes", "threading"])
def test_call_in_del(ends_well, backend):
    out = ends_well(
        "class Late:\n"
        "    def __del__(self, Parallel=Parallel, delayed=delayed):\n"
        f"        out = Parallel(n_jobs=2, backend={backend!r})(\n"
        "            delayed(pow)(i, 2) for i in range(4))\n"
        "        print('late', out)\n"
        "late = Late()\n"
    )
    assert "late [0, 1, 4, 9]" in out


def test_call_in_another_thread_at_the_end(ends_well):
    """A daemon thread is in the middle of a call."""
    ends_well(
        "started = threading.Event()\n"
        "def run():\n"
        "    while True:\n"
        "        Parallel(n_jobs=2)(delayed(abs)(i) for i in range(50))\n"
        "        started.set()\n"
        "threading.Thread(target=run, daemon=True).start()\n"
        "started.wait(10)\n"
    )


@pytest.mark.parametrize("return_as", ["list", "generator"])
@pytest.mark.parametrize("backend", ["processes", "threading"])
def test_call_that_is_under_way_when_the_main_thread_ends(
    ends_well, backend, return_as
):
    """The interpreter waits for such a thread: its call must not fail meanwhile."""
    out = ends_well(
        "def tasks():\n"
        "    started.set()\n"
        "    while threading.main_thread().is_alive():\n"
        "        time.sleep(0.001)\n"
        "    for i in range(8):\n"
        "        yield delayed(pow)(i, 2)\n"
        "def run():\n"
        f"    parallel = Parallel(n_jobs=2, backend={backend!r},\n"
        f"                        return_as={return_as!r})\n"
        "    print('late', list(parallel(tasks())))\n"
        "started = threading.Event()\n"
        "threading.Thread(target=run).start()\n"
        "started.wait(10)\n"
    )
    assert "late [0, 1, 4, 9, 16, 25, 36, 49]" in out


def test_program_that_leaves_with_sys_exit_inside_a_block(ends_well):
    ends_well(
        "with Parallel(n_jobs=2) as p:\n    p([delayed(abs)(1)])\n    sys.exit()\n"
    )


def test_workers_threads_hold_nothing_up(ends_well):
    """A task left a thread behind in its worker."""
    ends_well(
        "def task():\n"
        "    threading.Thread(target=time.sleep, args=(30,)).start()\n"
        "    print(os.getpid(), flush=True)\n"
        "Parallel(n_jobs=2)(delayed(task)() for _ in range(2))\n"
    )


def test_error_at_the_end_of_the_program_is_the_only_one(run_python, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        START + "pids()\ngenerator = half_read()\nraise KeyError('mine')\n"
    )
    done = run_python(script, returncode=1)
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.rstrip().endswith("KeyError: 'mine'")


def test_idle_pool_and_parked_threads_use_no_cpu(run_script):
    """Over two seconds, parent and workers together."""
    done = run_script(
        """
        import os, time
        from cypar import Parallel, delayed

        def ticks(pid):
            fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
            return int(fields[11]) + int(fields[12])

        def used():
            own = time.process_time()
            return own + sum(map(ticks, pids)) / os.sysconf("SC_CLK_TCK")

        def task():
            time.sleep(0.05)
            return os.getpid()

        pids = set(Parallel(n_jobs=2)(delayed(task)() for _ in range(4)))
        threads = Parallel(n_jobs=2, prefer="threads")
        threads(delayed(time.sleep)(0.01) for _ in range(4))
        time.sleep(0.2)
        before = used()
        time.sleep(2)
        print(used() - before)
        """
    )
    assert float(done.stdout) <= 0.02
    assert Path("/proc").exists()
