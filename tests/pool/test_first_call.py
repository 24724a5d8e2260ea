"""Ctrl-C while the first call of a program still imports what it needs."""

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
