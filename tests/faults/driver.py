r"""Run many programs: child interpreters side by side, watched from outside.

::

    numbers -> chunks -> a slot (thread) -> child.py -> verdicts, one JSON line each
                                       \-> no verdict in time: stacks, SIGKILL
                                        -> child gone: what is left of it?

All processes of a child carry a mark in their environment, whoever their parent is, so
that nothing can hide: workers, their tasks' subprocesses, forked children.
"""

import json
import os
import queue
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from notes import read_notes
from programs import make_program
from trigger import is_running

import cypar

CHUNK = 12  # programs that one interpreter runs
PROGRAM_S = 60.0  # usual limit for one program, which takes a second or two
END_S = 30.0  # after its last program, an interpreter ends within this time
# After the end of an interpreter, for all that belongs to it. A second on an idle
# machine; this one is busy.
GONE_S = 5.0
MARK = "CYPAR_FAULTS_MARK"
EXIT_STATUS = {
    "SIGKILL": -signal.SIGKILL,
    "SIGTERM": -signal.SIGTERM,
    "os._exit": 3,
    "exit": 0,
    "sys.exit": 0,
}


class Verdict:
    """What became of one program.

    Attributes
    ----------
    program : Program
    violations : list of str
    seconds : float
    gone_s : float or None
        Time from the end of the interpreter to that of all its processes.
    beside : list of int
        Programs that ran in the same interpreter before it.
    """

    def __init__(self, program, violations=(), seconds=0.0):
        self.program = program
        self.violations = list(violations)
        self.seconds = seconds
        self.gone_s = None
        self.before = []


class Driver:
    """Runs programs.

    Parameters
    ----------
    seed : int
    numbers : iterable of int
    n_slots : int
        Interpreters at a time.
    on_verdict : callable
        Called with each `Verdict`, by one thread at a time.
    stop_at_first : bool
        Begin no program after the first violation.
    limit_s : float
        A program that has no verdict by then hangs.
    """

    def __init__(
        self, seed, numbers, n_slots, on_verdict, stop_at_first=False, limit_s=PROGRAM_S
    ):
        self.seed = seed
        self.limit_s = limit_s
        self.n_slots = n_slots
        self.mountable = None
        self.root = Path(tempfile.mkdtemp(prefix="faults-"))
        self._on_verdict = on_verdict
        self._stop_at_first = stop_at_first
        self._lock = threading.Lock()
        self._chunks = queue.SimpleQueue()
        self._stopped = False
        for chunk in chunks(seed, numbers):
            self._chunks.put(chunk)

    def run(self):
        """Run all programs; returns when the last verdict is in."""
        threads = [
            threading.Thread(target=self._serve, args=(slot,), daemon=True)
            for slot in range(self.n_slots)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)
        finally:
            self._stopped = True
            for thread in threads:
                thread.join()
            shutil.rmtree(self.root, ignore_errors=True)

    def _serve(self, slot):
        n_children = 0
        while not self._stopped:
            try:
                numbers = self._chunks.get_nowait()
            except queue.Empty:
                return
            while numbers and not self._stopped:
                n_children += 1
                folder = self.root / f"{slot}-{n_children}"
                child = Child(self.seed, folder, numbers, self.limit_s)
                numbers = child.run(self._judge, lambda: self._stopped)
                self.mountable = child.mountable

    def _judge(self, verdict):
        with self._lock:
            if self._stopped:
                return
            self._on_verdict(verdict)
            if verdict.violations and self._stop_at_first:
                self._stopped = True


def chunks(seed, numbers):
    """Divide programs among interpreters; one that ends its own is alone."""
    together = []
    for number in numbers:
        if make_program(seed, number).ends:
            yield [number]
            continue
        together.append(number)
        if len(together) == CHUNK:
            yield together
            together = []
    if together:
        yield together


class Child:
    """One interpreter and all that belongs to it."""

    def __init__(self, seed, folder, numbers, limit_s):
        self.seed = seed
        self.limit_s = limit_s
        self.folder = folder
        self.numbers = list(numbers)
        self.done = []
        self.current = None
        self.begun_at = 0.0
        self.mountable = None
        self.mark = f"{os.getpid()}-{folder.name}-{os.urandom(4).hex()}"

    def run(self, on_verdict, is_stopped):
        """Run the programs; returns the numbers of those that had no chance."""
        self.folder.mkdir()
        self._start()
        verdict = None
        for verdict in self._verdicts(is_stopped):
            if not verdict.program.ends and not self._is_last():
                on_verdict(verdict)
                verdict = None
        if is_stopped():
            self._kill_all()
            self._close()
            return []
        verdict = self._judge_end(verdict)
        self._close()
        if verdict is not None:
            on_verdict(verdict)
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.numbers[len(self.done) :]

    def _is_last(self):
        return len(self.done) == len(self.numbers)

    def _start(self):
        read, write = os.pipe()
        temp = self.folder / "tmp"
        temp.mkdir()
        env = {**os.environ, MARK: self.mark, "TMPDIR": str(temp)}
        root = str(Path(cypar.__file__).parents[1])
        if "site-packages" not in root:  # built in place
            env["PYTHONPATH"] = os.pathsep.join([root, env.get("PYTHONPATH", "")])
        self.stderr = open(self.folder / "stderr", "w+b")  # noqa: SIM115
        script = Path(__file__).with_name("child.py")
        arguments = [self.seed, self.folder, write, *self.numbers]
        self.process = subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=self.stderr,
            stderr=self.stderr,
            pass_fds=[write],
            env=env,
            cwd=self.folder,
            start_new_session=True,
        )
        os.close(write)
        self.answers = open(read, "rb", buffering=0)  # noqa: SIM115

    def _close(self):
        self.answers.close()
        self.stderr.close()

    # ---- while it runs ---------------------------------------------------------------

    def _verdicts(self, is_stopped):
        """Yield verdicts until the interpreter has no more programs, or is no more."""
        pending = b""
        self.begun_at = time.monotonic()
        while not is_stopped():
            if not select.select([self.answers], [], [], 0.1)[0]:
                if self.process.poll() is not None:
                    return
                if time.monotonic() - self.begun_at > self.limit_s:
                    yield self._hang()
                    return
                continue
            data = os.read(self.answers.fileno(), 1 << 16)
            if not data:
                return
            pending += data
            *lines, pending = pending.split(b"\n")
            for line in lines:
                answer = json.loads(line)
                if "begun" in answer:
                    self.current = answer["begun"]
                    self.mountable = answer["mountable"]
                    self.begun_at = time.monotonic()
                elif "number" in answer:
                    yield self._verdict(answer["violations"], answer["seconds"])
                else:
                    return

    def _verdict(self, violations, seconds=0.0):
        program = make_program(self.seed, self.current)
        verdict = Verdict(program, violations, seconds)
        verdict.before = list(self.done)
        self.done.append(self.current)
        self.current = None
        return verdict

    def _hang(self):
        """Have all stacks printed, kill everything, and report that."""
        seconds = time.monotonic() - self.begun_at
        if self.current is None:
            self.current = self.numbers[0]
        for number in (signal.SIGUSR2, signal.SIGUSR1):
            self.process.send_signal(number)
            time.sleep(0.5)
        stacks = self._stderr_tail()
        for pid in marked(self.mark):
            if pid != self.process.pid:
                send(pid, signal.SIGABRT)  # faulthandler prints, then it ends
        time.sleep(0.5)
        self._kill_all()
        verdict = self._verdict([f"no end after {seconds:.0f} s"], seconds)
        verdict.violations.append("stacks of the program:\n" + stacks)
        verdict.violations.append("stacks of its workers:\n" + self._stderr_tail())
        return verdict

    def _kill_all(self):
        self.process.kill()
        self.process.wait()
        for pid in marked(self.mark):
            send(pid, signal.SIGKILL)

    def _stderr_tail(self):
        return (self.folder / "stderr").read_bytes()[-6_000:].decode(errors="replace")

    # ---- when it is gone -------------------------------------------------------------

    def _judge_end(self, verdict):
        """Add what the end of the interpreter shows to the last verdict."""
        try:
            status = self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            if self.current is None and verdict is None:
                return None
            self.current = self.current or verdict.program.number
            hang = self._hang()
            hang.violations.insert(0, "the interpreter did not end")
            return hang
        if verdict is None and self.current is not None:
            verdict = self._verdict([])  # it died while it ran this program
            if not verdict.program.ends:
                verdict.violations.append(
                    f"the interpreter ended with {status}:\n{self._stderr_tail()}"
                )
        if verdict is None:
            return None
        gone = self._wait_for_all()
        verdict.gone_s = gone
        expected = 0
        if verdict.program.ends:
            expected = EXIT_STATUS[verdict.program.variant]
            verdict.violations += self._judge_ended_program(verdict.program)
        if status != expected and not verdict.violations:
            verdict.violations.append(
                f"exit status {status} instead of {expected}:\n{self._stderr_tail()}"
            )
        verdict.violations += self._left()
        return verdict

    def _wait_for_all(self):
        """Wait until no process with our mark is left; returns how long that took."""
        begun = time.monotonic()
        while marked(self.mark) and time.monotonic() < begun + GONE_S:
            time.sleep(0.005)
        return time.monotonic() - begun

    def _left(self):
        """Return a violation for each process and file that remains."""
        left = [f"process {pid}: {command(pid)}" for pid in marked(self.mark)]
        for pid in marked(self.mark):
            send(pid, signal.SIGKILL)
        left += [f"file {path}" for path in (self.folder / "tmp").rglob("*")]
        return [f"left after the interpreter: {text}" for text in left]

    def _judge_ended_program(self, program):
        """Return the violations of a program that ended its own interpreter."""
        folder = self.folder / f"1-{program.number}"
        started = {}
        for note in read_notes(folder):
            if note.what == "started":
                key = (note.call, note.index)
                started[key] = started.get(key, 0) + 1
        violations = [
            f"call {call}: task {index} ran {count} times"
            for (call, index), count in started.items()
            if count > 1
        ]
        tail = self._stderr_tail()
        if tail.strip():
            violations.append(f"stderr:\n{tail}")
        killed = program.variant in ("SIGKILL", "SIGTERM", "os._exit")
        if not (killed and program.temp_folder):
            # a folder of the user's is cleaned by the next call that has the same
            violations += [f"left behind: {p}" for p in (folder / "temp").rglob("*")]
        return violations


# ---- processes with a mark -----------------------------------------------------------


def marked(mark):
    """Return the ids of the living processes that have the mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                environ = file.read()
        except OSError:
            continue  # gone, or not ours
        if wanted in environ.split(b"\0") and is_running(int(name)):
            found.append(int(name))
    return found


def command(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().replace(b"\0", b" ").decode(errors="replace")[-300:]
    except OSError:
        return "(gone)"


def send(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
