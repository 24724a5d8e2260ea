"""Nothing remains: after success, error, Ctrl-C, death of a worker or the parent."""

import os
import signal
import subprocess
import sys
import time

import pytest

from cypar.transport import temp_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

PROLOGUE = """
import os, signal, sys, time, warnings
import numpy as np
from cypar import Parallel, delayed

folder = sys.argv[1] if len(sys.argv) > 1 else None

def total(a):
    return float(a.sum())

def say(line):
    os.write(1, f"{line}\\n".encode())  # in one piece: others write there too

def arrays(n=20):
    for i in range(n):
        yield np.full(300_000, float(i))
"""


def shared_files():
    """Return what lies in /dev/shm, but for what other programs come and go with."""
    others = ("sem.", "joblib_", "psm_")
    return {name for name in os.listdir("/dev/shm") if not name.startswith(others)}


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a script and gives its Popen."""
    processes = []

    def run(text, *args):
        script = tmp_path / "script.py"
        script.write_text(PROLOGUE + text)
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(
            [sys.executable, script, *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
        process.stderr.close()


def wait_for(condition, deadline_s=10):
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_two_hundred_calls_with_warnings_as_errors(run_script, tmp_path):
    """No ResourceWarning, no noise of a resource tracker, no growth."""
    before = shared_files()
    script = (
        PROLOGUE
        + """
import gc, resource, tracemalloc
def descriptors():
    return len(os.listdir("/proc/self/fd"))
run = Parallel(n_jobs=2)
list(run(delayed(total)(a) for a in arrays(4)))
n = descriptors()
for i in range(200):
    mode = ("r", "c", "r+", None)[i % 4]
    named = folder if i % 10 == 0 else None
    run = Parallel(n_jobs=2, mmap_mode=mode, temp_folder=named)
    assert run(delayed(total)(a) for a in arrays(3)) == [0, 300_000, 600_000]
assert descriptors() <= n + 3, (descriptors(), n)
"""
    )
    result = run_script(
        script, tmp_path / "x", python_args=["-W", "error", "-X", "dev"]
    )
    assert result.stderr == ""
    assert os.listdir(tmp_path / "x") == []
    assert shared_files() == before


def test_killed_parent(start):
    before = shared_files()
    process = start("""
def report(a):
    say(os.getpid())
    time.sleep(100)

Parallel(n_jobs=2)(delayed(report)(a) for a in arrays())
""")
    pids = [int(process.stdout.readline()) for _ in range(2)]
    assert all(map(is_alive, pids))
    process.kill()
    process.wait()
    wait_for(lambda: not any(map(is_alive, pids)), 1.5)
    assert shared_files() == before


def test_killed_parent_with_a_folder(start, tmp_path):
    """The next call that uses the folder removes what the dead process left."""
    folder = tmp_path / "arrays"
    text = """
def report(a):
    say(a.filename)
    time.sleep(100)

Parallel(n_jobs=2, temp_folder=folder)(delayed(report)(a) for a in arrays())
"""
    process = start(text, folder)
    left = os.path.dirname(process.stdout.readline())
    process.kill()
    process.wait()
    assert os.listdir(folder) == [os.path.basename(left)]
    (folder / "cypar-notes.txt").write_text("of the user")
    other = start(text, folder)
    name = os.path.dirname(other.stdout.readline())
    assert sorted(os.listdir(folder)) == sorted(
        [os.path.basename(name), "cypar-notes.txt"]
    )
    # one that lives is left alone
    third = start(text, folder)
    third.stdout.readline()
    assert len(os.listdir(folder)) == 3


def test_folders_of_other_machines_and_containers_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(temp_folder, "process_space", lambda: "0123abcd")
    elsewhere = temp_folder.TempFolder(tmp_path)
    elsewhere.make_segment().close()
    pid, started = os.path.basename(elsewhere.path).split("-")[2:4]
    dead = tmp_path / os.path.basename(elsewhere.path).replace(started, started + "1")
    dead.mkdir()
    monkeypatch.undo()
    temp_folder.remove_stale(tmp_path)
    assert dead.exists()
    assert os.path.exists(elsewhere.path)
    monkeypatch.setattr(temp_folder, "process_space", lambda: "0123abcd")
    temp_folder.remove_stale(tmp_path)
    assert not dead.exists()  # there, its process is known to be dead
    assert os.path.exists(elsewhere.path)
    assert int(pid) == os.getpid()
    elsewhere.remove()


@pytest.mark.parametrize("where", [None, "folder"])
def test_ctrl_c(start, tmp_path, where):
    before = shared_files()
    args = [tmp_path / where] if where else []
    process = start(
        """
def wait(a):
    say(os.getpid())
    time.sleep(100)

try:
    Parallel(n_jobs=2, temp_folder=folder)(delayed(wait)(a) for a in arrays())
except KeyboardInterrupt:
    n = len([fd for fd in os.listdir("/proc/self/fd")])
    out = Parallel(n_jobs=2)(delayed(total)(a) for a in arrays(3))
    print("next", out, os.listdir(folder) if folder else [], flush=True)
""",
        *args,
    )
    for _ in range(2):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert err == ""
    assert out.splitlines()[-1] == "next [0.0, 300000.0, 600000.0] []"
    assert shared_files() == before


BASELINE = """
import gc, threading
from cypar import WorkerCrash
from cypar.backends.pool.supervisor import pool
from cypar.transport.segments import arena

how = sys.argv[2]
main_pid = os.getpid()

def kib(pid, name):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))

def task(a, i):
    if i == 12:
        if how == "error":
            raise KeyError("expected")
        if how == "killed worker":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "ctrl-c":
            os.kill(main_pid, signal.SIGINT)  # a worker's parent may be another
            time.sleep(100)
    return float(a.sum())

def call():
    run = Parallel(n_jobs=2, temp_folder=folder, batch_size=1)
    try:
        run(delayed(task)(np.full(500_000, float(i)), i) for i in range(24))
    except (KeyError, WorkerCrash, KeyboardInterrupt) as error:
        return type(error).__name__

def settle():
    gc.collect()
    until = time.monotonic() + 5  # a worker lets go when it gets a processor
    while True:
        arena.trim(0)
        Parallel(n_jobs=2)(delayed(abs)(i) for i in range(4))  # tells workers of it
        held = [kib(worker, "Pss_Shmem") for pids in pool.pids() for worker in pids]
        if max(held) < 2000:
            break
        assert time.monotonic() < until, held
        time.sleep(0.01)
    pool.shutdown()  # the number of workers, and so of their descriptors, varies

folder = folder if folder != "none" else None
outcomes = {call()}
settle()
fds, anonymous = len(os.listdir("/proc/self/fd")), kib("self", "Anonymous")
for _ in range(5):
    outcomes.add(call())
settle()
assert arena.segments == [], arena.segments
assert len(os.listdir("/proc/self/fd")) <= fds, (fds, os.listdir("/proc/self/fd"))
assert kib("self", "Pss_Shmem") < 2000, kib("self", "Pss_Shmem")
grown = kib("self", "Anonymous") - anonymous
assert grown < 8000, grown
if folder:
    assert os.listdir(folder) == []
print(outcomes)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["none", "folder"])
@pytest.mark.parametrize(
    ("how", "outcome"),
    [
        ("success", {None}),
        ("error", {"KeyError"}),
        ("killed worker", {"WorkerCrash"}),
        ("ctrl-c", {"KeyboardInterrupt"}),
    ],
)
def test_everything_is_back_to_where_it_was(run_script, tmp_path, how, outcome, where):
    before = shared_files()
    folder = where if where == "none" else tmp_path / "x"
    result = run_script(PROLOGUE + BASELINE, folder, how)
    assert result.stdout.strip() == str(outcome)
    assert result.stderr == ""
    assert shared_files() == before


def test_exit_in_the_middle(start, tmp_path):
    """sys.exit while a generator runs: the folder goes, and nobody stays behind."""
    folder = tmp_path / "arrays"
    process = start(
        """
def first(a):
    return os.getpid(), a.filename

run = Parallel(n_jobs=2, temp_folder=folder, return_as="generator")
results = run(delayed(first)(a) for a in arrays(1000))
print(*next(results), flush=True)
sys.exit(0)
""",
        folder,
    )
    out, _ = process.communicate(timeout=20)
    pid, name = out.split()
    assert name.startswith(str(folder))
    wait_for(lambda: not is_alive(int(pid)), 2)
    assert os.listdir(folder) == []


def test_no_file_is_made_after_all_were_removed(run_script, tmp_path):
    """A thread may still draw tasks when the interpreter has begun to end."""
    folder = tmp_path / "arrays"
    out = run_script(
        """
import sys
from cypar.transport import temp_folder

folder = temp_folder.TempFolder(sys.argv[1])
segment = folder.make_segment()
temp_folder._remove_all()
try:
    folder.make_segment()
except SystemExit as error:
    print(error)
segment.close()
""",
        folder,
    ).stdout
    assert "no files are made" in out
    assert os.listdir(folder) == []


def test_killed_worker_with_a_folder(run_script, tmp_path):
    script = (
        PROLOGUE
        + """
from cypar import WorkerCrash
def die(a):
    if a[0] == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return float(a[0])

for _ in range(3):
    try:
        Parallel(n_jobs=2, temp_folder=folder)(delayed(die)(a) for a in arrays())
    except WorkerCrash:
        print(os.listdir(folder))
"""
    )
    out = run_script(script, tmp_path / "x").stdout.splitlines()
    assert out == ["[]"] * 3


def test_a_forked_child_does_not_touch_its_parents_folder(run_script, tmp_path):
    script = (
        PROLOGUE
        + """
def tasks():
    for i, a in enumerate(arrays(6)):
        if i == 3:
            pid = os.fork()
            if pid == 0:
                sys.exit(0)  # runs the exit handlers
            os.waitpid(pid, 0)
        yield delayed(total)(a)

print(Parallel(n_jobs=2, temp_folder=folder)(tasks())[-1])
"""
    )
    # Python 3.12+ warns of forks in programs with threads; there are none here
    assert run_script(script, tmp_path / "x").stdout.split()[-1] == "1500000.0"
    assert os.listdir(tmp_path / "x") == []
