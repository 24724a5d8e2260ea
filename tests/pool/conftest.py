"""What the tests of the pool share: files as signals, and looking at processes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import cypar
from cypar import Parallel, delayed
from cypar.backends.pool.supervisor import pool

DEADLINE_S = 10.0


class Signals:
    """Files in a folder, for tasks in whatever process."""

    def __init__(self, folder):
        self.folder = str(folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def set(self, name):
        Path(self.path(name)).touch()

    def is_set(self, name):
        return os.path.exists(self.path(name))

    def wait(self, name, deadline_s=DEADLINE_S):
        self.until(lambda: self.is_set(name), f"the signal {name!r}", deadline_s)

    def meet(self, name, n):
        """Wait until ``n`` callers are here; returns the process id."""
        self.set(f"{name}-{os.getpid()}")
        self.until(lambda: self.count(name) >= n, f"{n} at {name!r}")
        return os.getpid()

    def count(self, name):
        return sum(entry.startswith(f"{name}-") for entry in os.listdir(self.folder))

    def note(self, name, text):
        """Add one line to a file; lines of several processes never mix."""
        with open(self.path(name), "ab", buffering=0) as file:
            file.write(f"{text}\n".encode())

    def notes(self, name):
        if not self.is_set(name):
            return []
        return Path(self.path(name)).read_text().splitlines()

    @staticmethod
    def until(condition, what, deadline_s=DEADLINE_S):
        deadline = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {deadline_s} s for {what}")
            time.sleep(0.001)


@pytest.fixture
def signals(tmp_path):
    return Signals(tmp_path)


@pytest.fixture
def fresh_pool():
    """The pool, without workers; none are left afterwards either."""
    pool.shutdown()
    yield pool
    pool.shutdown()


@pytest.fixture
def two_workers(fresh_pool, signals):
    """Start two workers; returns their process ids."""
    pids = Parallel(n_jobs=2)(delayed(signals.meet)("warm", 2) for _ in range(2))
    assert len(set(pids)) == 2
    return set(pids)


@pytest.fixture
def ended():
    """Return a function that tells whether a process is gone or a zombie."""

    def ended(pid):
        try:
            text = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        return text.rpartition(")")[2].split()[0] in "ZX"

    return ended


@pytest.fixture
def killed_later(ended):
    """Return a list: processes put into it are killed after the test."""
    pids = []
    yield pids
    for pid in pids:
        if not ended(pid):
            os.kill(pid, signal.SIGKILL)


class Program:
    """A program that runs beside the test and says one JSON object per line."""

    PROLOGUE = """
import json, os, signal, subprocess, sys, threading, time
import cypar
from cypar import Parallel, delayed

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup and "&" leave them ignored
signal.signal(signal.SIGINT, signal.default_int_handler)

def say(**what):
    os.write(1, json.dumps(what).encode() + b"\\n")
"""

    def __init__(self, folder, text, env):
        file = Path(folder) / "program.py"
        file.write_text(self.PROLOGUE + textwrap.dedent(text))
        root = str(Path(cypar.__file__).parents[1])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, str(file)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def hear(self):
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def end(self):
        """Wait for its end; returns (exit status, rest of stdout, stderr)."""
        out, err = self.process.communicate(timeout=20)
        return self.process.returncode, out, err


@pytest.fixture
def program(tmp_path):
    """Return a function that starts a `Program`: ``program(text, **variables)``."""
    running = []

    def start(text, **env):
        running.append(Program(tmp_path, text, env))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.communicate()
