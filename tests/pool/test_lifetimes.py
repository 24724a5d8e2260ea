"""Ctrl-C at any moment, and the many ways in which a program ends.

Checked after each: no process of the session is left, nothing is on stderr that the
program did not ask for, and no file remains.
"""

import os
import signal
import textwrap
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc").exists(), reason="looks at /proc"),
]

HELPERS = """
def task(seconds=60):
    child = subprocess.Popen(["sleep", "60"])
    say(worker=os.getpid(), child=child.pid)
    time.sleep(seconds)
"""


class Session:
    """A program in a session and with a folder for temporary files of its own."""

    def __init__(self, program, folder, text):
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        text = HELPERS + textwrap.dedent(text)
        started = program(text, TMPDIR=str(self.temporary))
        self.process, self.hear = started.process, started.hear

    def members(self):
        """Return the processes of the session, whoever their parents are now."""
        found = set()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid and fields[0] not in "ZX":
                found.add(int(entry.name))
        return found

    def end(self, signals):
        """Wait for its end and check that nothing remains; returns (status, stderr)."""
        self.process.wait(20)
        signals.until(lambda: not self.members(), "the end of all processes", 1.0)
        _, err = self.process.communicate(timeout=5)
        assert not list(self.temporary.iterdir())
        return self.process.returncode, err


@pytest.fixture
def session(program, tmp_path):
    started = []

    def start(text):
        started.append(Session(program, tmp_path, text))
        return started[-1]

    yield start
    for one in started:
        for pid in one.members():
            os.kill(pid, signal.SIGKILL)


# ---- Ctrl-C --------------------------------------------------------------------------

CALL = """
def ready():
    say(ready=True)
    return 1

{prepare}
try:
    {call}
except KeyboardInterrupt:
    say(prompt=time.monotonic())
    cypar.set_preload([])
else:
    say(finished=True)
say(next=Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(5)))
"""

MOMENTS = {
    # workers are being started: the server imports something slow
    "start-up": (
        "open('slow_module.py', 'w').write('import os, time\\n'"
        "'os.write(1, b\"{}\\\\n\")\\ntime.sleep(60)\\n')\n"
        "sys.path.insert(0, os.getcwd())\n"
        "cypar.set_preload(['slow_module'])",  # taken back before the next call
        "Parallel(n_jobs=2)(delayed(abs)(i) for i in range(4))",
    ),
    # the input is being read
    "dispatch": (
        "def tasks():\n"
        "    yield delayed(abs)(1)\n"
        "    say(ready=True)\n"
        "    while True:\n"
        "        yield delayed(abs)(1)\n",
        "Parallel(n_jobs=2)(tasks())",
    ),
    "blocked input": (
        "def tasks():\n    yield delayed(abs)(1)\n    say(ready=True)\n"
        "    time.sleep(60)\n",
        "Parallel(n_jobs=2)(tasks())",
    ),
    "waiting": (
        "def wait():\n    say(ready=True)\n    time.sleep(60)\n",
        "Parallel(n_jobs=2)([delayed(wait)(), delayed(abs)(1)])",
    ),
    # large results are on their way all the time
    "result transfer": (
        "def large(i):\n"
        "    if i == 4:\n        say(ready=True)\n"
        "    return b'x' * 5_000_000\n",
        "[None for _ in Parallel(n_jobs=2, batch_size=1, return_as='generator')("
        "delayed(large)(i) for i in range(10**6))]",
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c(session, signals, moment, tmp_path, monkeypatch):
    """The prompt is back in 0.2 s, and the next call works."""
    monkeypatch.chdir(tmp_path)
    prepare, call = MOMENTS[moment]
    program = session(CALL.format(prepare=prepare, call=call))
    program.hear()
    start = time.monotonic()
    program.process.send_signal(signal.SIGINT)
    said = program.hear()
    while "prompt" not in said:
        assert "ready" in said, said
        said = program.hear()
    assert said["prompt"] - start < limit_s()
    assert program.hear() == {"next": [0, 1, 2, 3, 4]}
    status, err = program.end(signals)
    assert (status, err) == (0, "")


def limit_s():
    """0.2 s, or more where other programs keep all processors busy."""
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    return 0.2 * max(1.0, 2 * busy)


def test_two_interrupts_in_a_row(session, signals):
    program = session(
        """
        try:
            Parallel(n_jobs=2)(delayed(task)() for _ in range(2))
        except KeyboardInterrupt:
            pass
        """
    )
    for _ in range(2):
        program.hear()
    for _ in range(2):
        program.process.send_signal(signal.SIGINT)
        time.sleep(0.01)  # the second one comes while the first is handled
    program.end(signals)


# ---- the program ends ----------------------------------------------------------------

BUSY = """
{before}
threading.Thread(target=Parallel(n_jobs=2, backend="{backend}"), daemon=True,
                 args=([delayed(task)() for _ in range(2)],)).start()
sys.stdin = None
while True:
    time.sleep(0.01)
    if os.path.exists("go"):
        {end}
"""


@pytest.mark.parametrize(
    ("backend", "end", "status"),
    [
        ("processes", "os._exit(3)", 3),
        ("processes", "sys.exit(4)", 4),
        ("processes", "os.abort()", -signal.SIGABRT),
        ("processes", "os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("processes", "os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("processes", "os.kill(os.getpid(), signal.SIGHUP)", -signal.SIGHUP),
        ("processes", "raise SystemExit", 0),
        ("processes", "os.execv('/bin/true', ['true'])", 0),
        ("multiprocessing", "os._exit(3)", 3),
        ("multiprocessing", "sys.exit(4)", 4),
    ],
)
def test_program_ends_while_a_daemon_thread_is_in_a_call(
    session, signals, tmp_path, monkeypatch, backend, end, status
):
    """Workers and their tasks' own processes are gone within a second."""
    monkeypatch.chdir(tmp_path)
    program = session(BUSY.format(before="", end=end, backend=backend))
    for _ in range(2):
        program.hear()
    Path("go").touch()
    found, err = program.end(signals)
    assert (found, err) == (status, "")


@pytest.mark.parametrize(
    "text",
    [
        "Parallel(n_jobs=2)(delayed(abs)(i) for i in range(9))",
        "g = Parallel(n_jobs=2, return_as='generator')(\n"
        "    delayed(abs)(i) for i in range(5000))\nnext(g)",
        "g = Parallel(n_jobs=2, return_as='generator_unordered')(\n"
        "    delayed(time.sleep)(i and 30) for i in range(4))\nnext(g)",
        "cypar.warmup(n_jobs=2)",
        "Parallel(n_jobs=2, initializer=task, initargs=(0,))("
        "delayed(abs)(i) for i in range(9))",
    ],
)
def test_program_just_ends(session, signals, text):
    program = session(text)
    status, err = program.end(signals)
    assert (status, err) == (0, "")


def test_forked_child_that_ends_in_any_way(session, signals):
    """The parent's workers stay, whatever its children do."""
    program = session(
        """
        def pids():
            return set(Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(40)))

        before = pids()
        for end in (os._exit, sys.exit, lambda status: os.kill(os.getpid(), 9)):
            child = os.fork()
            if child == 0:
                if end is sys.exit:
                    assert not pids() & before
                end(0)
            os.waitpid(child, 0)
            assert Parallel(n_jobs=2)([delayed(abs)(-1)] * 4) == [1] * 4
        assert pids() & before
        """
    )
    status, err = program.end(signals)
    assert (status, err) == (0, "")


def test_killed_parent_of_a_call_in_a_task(session, signals):
    """Workers of workers go, too."""
    program = session(
        """
        def outer():
            Parallel(n_jobs=2, backend="processes")(delayed(task)() for _ in range(2))

        Parallel(n_jobs=2)(delayed(outer)() for _ in range(2))
        """
    )
    for _ in range(4):
        program.hear()
    program.process.kill()
    program.end(signals)
