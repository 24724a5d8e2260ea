"""Programs that run with stdin, stdout or stderr closed, as daemons do."""

import itertools
import json
import os
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="descriptors are read in /proc"
    ),
]

PROLOGUE = """
import json, os, sys

def close_standard():
    for fd in map(int, sys.argv[1]):
        os.close(fd)

if sys.argv[2] == "exec":  # closed before the program starts
    close_standard()
    sys.argv[2] = ""
    os.execv(sys.executable, [sys.executable, *sys.argv])
if sys.argv[2] == "here":
    close_standard()

from cypar import Parallel, WorkerCrash, delayed
from cypar.backends.pool.supervisor import pool

def task(i):
    print("to stdout")
    os.write(1, b"to descriptor 1\\n")
    print("to stderr", file=sys.stderr)
    os.write(2, b"to descriptor 2\\n")
    return [os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)]

def tell(**what):
    with open(sys.argv[3], "w") as file:
        json.dump(what, file)
"""

SCRIPT = (
    PROLOGUE
    + """
crashes = []
for _ in range(3):
    seen = Parallel(n_jobs=2, batch_size=1)(delayed(task)(i) for i in range(6))
    try:
        Parallel(n_jobs=2)([delayed(os._exit)(7)])
    except WorkerCrash as error:
        crashes.append(error.exitcode)
tell(seen=seen, crashes=crashes, lowest=min(pool.descriptors()))
"""
)

CLOSED = ["".join(c) for n in range(4) for c in itertools.combinations("012", n)]


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize("start_method", ["fork", "exec"])
@pytest.mark.parametrize("when", ["exec", "here"])
def test_closed_standard_descriptors(run_script, tmp_path, when, start_method, closed):
    env = {"CYPAR_START_METHOD": start_method}
    done = run_script(SCRIPT, closed, when, tmp_path / "told", env=env)
    told = json.loads((tmp_path / "told").read_text())
    assert told["crashes"] == [7, 7, 7]
    assert told["lowest"] > 2
    for targets in told["seen"]:
        for fd, target in enumerate(targets):
            expected = "/dev/null" if fd == 0 or str(fd) in closed else "pipe:"
            assert target.startswith(expected)
    n = 0 if "1" in closed else 18
    assert done.stdout.count("to stdout") == done.stdout.count("descriptor 1") == n
    n = 0 if "2" in closed else 18
    assert done.stderr.count("to stderr") == done.stderr.count("descriptor 2") == n


@pytest.mark.parametrize("start_method", ["fork", "exec"])
def test_workers_that_start_after_the_streams_were_closed(
    run_script, tmp_path, start_method
):
    """The fork server has them still."""
    done = run_script(
        PROLOGUE
        + """
Parallel(n_jobs=2)([delayed(abs)(1)])
close_standard()
pool.discard([*pool._idle])
seen = Parallel(n_jobs=2)([delayed(task)(1)])
tell(seen=seen, lowest=min(pool.descriptors()))
""",
        "12",
        "later",
        tmp_path / "told",
        env={"CYPAR_START_METHOD": start_method},
    )
    told = json.loads((tmp_path / "told").read_text())
    assert told["seen"] == [[os.devnull] * 3]
    assert told["lowest"] > 2
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("start_method", ["fork", "exec"])
def test_file_that_has_the_number_of_stderr_gets_no_messages(
    run_script, tmp_path, start_method
):
    run_script(
        PROLOGUE
        + """
file = open("data", "w")
assert file.fileno() == 2
Parallel(n_jobs=2)(delayed(task)(i) for i in range(3))
tell(size=os.path.getsize("data"))
""",
        "2",
        "here",
        tmp_path / "told",
        env={"CYPAR_START_METHOD": start_method},
    )
    assert json.loads((tmp_path / "told").read_text()) == {"size": 0}


def test_preloaded_module_that_closes_them(run_script, tmp_path):
    """In the fork server, which then receives descriptors with their numbers."""
    (tmp_path / "closes_them.py").write_text("import os\nos.closerange(0, 3)\n")
    run_script(
        PROLOGUE
        + """
import cypar
cypar.set_preload(["closes_them"])
tell(results=Parallel(n_jobs=2)(delayed(abs)(i) for i in range(3)))
""",
        "",
        "",
        tmp_path / "told",
        env={"CYPAR_START_METHOD": "fork"},
    )
    assert json.loads((tmp_path / "told").read_text()) == {"results": [0, 1, 2]}
