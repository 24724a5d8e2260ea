"""Ctrl-C and forks while the first call of a program still imports what it needs."""

import os
import sys

import pytest

SCRIPT = """
import os, signal, sys
from cypar import Parallel, delayed

LOCK_CALLBACK, wanted, seen = "cb", int(sys.argv[1]), 0

def trace(frame, event, argument):
    global seen
    code = frame.f_code
    if code.co_name == LOCK_CALLBACK and "importlib" in code.co_filename:
        seen += 1
        if seen == wanted:
            sys.settrace(None)
            os.kill(os.getpid(), signal.SIGINT)  # CPython drops what is raised here

def task(i):
    with open(sys.argv[2], "a"):
        pass

sys.settrace(trace)
try:
    Parallel(n_jobs=2, backend=sys.argv[3])(delayed(task)(i) for i in range(2))
except KeyboardInterrupt:
    assert not os.path.exists(sys.argv[2])
    print("interrupted")
else:
    sys.settrace(None)
    print("finished after", seen)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals cannot be blocked there")
@pytest.mark.parametrize("backend", ["processes", "multiprocessing", "threading"])
def test_ctrl_c_is_never_lost_in_an_import(run_script, tmp_path, backend):
    done = run_script(SCRIPT, 0, tmp_path / "ran", backend).stdout.split()
    assert done[:2] == ["finished", "after"]
    (tmp_path / "ran").unlink()
    n_imports = int(done[2])
    for wanted in {1, n_imports // 2, n_imports} - {0}:
        found = run_script(SCRIPT, wanted, tmp_path / "ran", backend)
        assert found.stdout == "interrupted\n", wanted
        assert found.stderr == ""


FORK = """
import os, signal, sys, threading, warnings
from cypar import Parallel, delayed

warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads
backend, wanted = sys.argv[1], int(sys.argv[2])
importing, forking = threading.Event(), threading.Event()

def call():
    tasks = [delayed(round)(1.5), delayed(lambda: 3)()]
    return Parallel(n_jobs=2, backend=backend)(tasks)

class Finder:
    seen = 0

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if threading.current_thread() is first and name.startswith(names):
            cls.seen += 1
            if cls.seen == wanted:
                importing.set()
                forking.wait(20)  # goes on in the middle of the import

first = threading.Thread(target=lambda: call() and importing.set())
names = ("cypar.", "cloudpickle")
sys.meta_path.insert(0, Finder)
os.register_at_fork(before=forking.set)
first.start()
assert importing.wait(20)
pid = os.fork()
if pid == 0:
    signal.alarm(10)  # it hung in the lock of a module
    os._exit(call() != [2, 3])
_, status = os.waitpid(pid, 0)
first.join()
print(status, Finder.seen >= wanted)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("backend", ["processes", "threading"])
@pytest.mark.parametrize("wanted", [1, 2, 3])
def test_fork_in_the_middle_of_the_imports_of_another_thread(
    run_script, backend, wanted
):
    assert run_script(FORK, backend, wanted).stdout == "0 True\n"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("wanted", [10, 20, 30])
def test_fork_later_in_the_imports_of_worker_processes(run_script, wanted):
    assert run_script(FORK, "processes", wanted).stdout == "0 True\n"
