"""One interpreter that runs programs, one after the other.

Started by `driver`; its last argument is a descriptor on which it writes one JSON
object per line: the number of each program when it begins, and its verdict.
"""

import faulthandler
import gc
import importlib.util
import json
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import checker
import tasks
from notes import read_notes
from programs import make_program
from runner import Runner
from surroundings import can_mount
from trigger import is_running

from cypar.backends.pool.supervisor import pool

SETTLE_S = 5.0  # what ends by itself may take this long, on a busy machine
# Signs of trouble on stderr; a worker that crashed on purpose says something else.
_alive = []
NOISE = (
    "Traceback",
    "Exception ignored",
    "ResourceWarning",
    "leaked",
    "Fatal Python error",
)


def leak_check():
    """Return tests/conftest.py, which knows what a process may leave behind."""
    path = Path(__file__).parents[1] / "conftest.py"
    spec = importlib.util.spec_from_file_location("conftest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Session:
    """Runs programs in this process.

    Parameters
    ----------
    seed : int
    folder : Path
        Each program gets a folder in it.
    answer_fd : int
    """

    def __init__(self, seed, folder, answer_fd):
        self.seed = seed
        self.folder = folder
        self.answer_fd = answer_fd
        self.n_run = 0
        self.mountable = can_mount()
        self.resources = leak_check().Resources

    def say(self, **what):
        os.write(self.answer_fd, json.dumps(what).encode() + b"\n")

    def run(self, number):
        """Run one program and report the verdict."""
        program = make_program(self.seed, number)
        self.n_run += 1
        folder = self.folder / f"{self.n_run}-{number}"
        folder.mkdir()
        self.say(begun=number, mountable=self.mountable)
        begun = time.monotonic()
        stderr_size = os.fstat(2).st_size
        before = self.resources()
        if program.ends:
            self.run_to_the_end(program, folder)
            return
        violations = self.run_and_check(program, folder)
        violations += self.leftovers(before, folder)
        violations += self.noise(program, stderr_size, violations)
        tasks.kept.clear()
        seconds = time.monotonic() - begun
        self.say(number=number, violations=violations, seconds=seconds)
        if not violations:
            shutil.rmtree(folder)

    def run_and_check(self, program, folder):
        runner = Runner(program, str(folder), self.mountable)
        try:
            runner.run()
            violations = checker.check(
                program, runner.records, runner.jobs, read_notes(folder)
            )
        except BaseException:
            return ["the program itself failed:\n" + traceback.format_exc()]
        if any(runner.forked):
            violations.append(f"exit statuses of forked children: {runner.forked}")
        return violations

    def run_to_the_end(self, program, folder):
        """Run a program that ends this process; the driver checks what is left."""
        runner = Runner(program, str(folder), self.mountable)
        _alive.append(runner)  # its half-read generator lives until the very end
        runner.run()
        self.say(number=program.number, violations=[], seconds=0.0)

    # ---- what is left -------------------------------------------------------------

    def leftovers(self, before, folder):
        """Return a violation for each thing that was not there before."""
        grandchildren = self.grandchildren(folder)
        if grandchildren:
            pool.shutdown()  # a healthy worker's children live as long as it does
        deadline = time.monotonic() + SETTLE_S
        while True:
            gc.collect()
            left = [
                *self.resources().beyond(before),
                *(f"task's child {p}" for p in grandchildren if is_running(p)),
                *(f"file {path}" for path in files_in(folder)),
            ]
            if not left or time.monotonic() > deadline:
                return [f"left behind: {text}" for text in left]
            time.sleep(0.005)

    def grandchildren(self, folder):
        try:
            return [int(line) for line in (folder / "children").read_text().split()]
        except FileNotFoundError:
            return []

    def noise(self, program, size, violations):
        """Return a violation if something was printed that nobody expects."""
        with open("/proc/self/fd/2", "rb") as file:
            file.seek(size)
            text = file.read().decode(errors="replace").strip()
        crashes = program.variant in ("segfault", "abort")
        # workers without descriptors say that they cannot go on
        quiet = not crashes and program.fault not in ("interrupt", "descriptors")
        words = [word for word in NOISE if word in text and quiet]
        if words or (violations and text):
            return [f"stderr has {', '.join(words) or 'this'}:\n{text[-4000:]}"]
        return []


def print_calls(number, frame):
    """Print the state of all calls that run; the handler of a signal."""
    for thing in gc.get_objects():
        if type(thing).__name__ == "Dispatcher":
            call = thing.call
            print(
                f"call: drawn={call.source.drawn} ended={call.source.ended} "
                f"pending={call.source.pending} has_task={call.source.has_task()} "
                f"finished={call.outcomes.finished} stopping={call.stopping} "
                f"window={call.source.window} exhausted={thing.exhausted}",
                file=sys.stderr,
            )
            for place in getattr(thing, "workers", None) or thing.pool.tickets:
                batches = [batch and (batch.n, batch.left) for batch in place.batches]
                windows = [
                    (place.page.claimed(slot), place.page.unclaimed(slot))
                    for slot in (0, 1)
                ]
                print(
                    f"  batches (n, left)={batches} (claimed, unclaimed)={windows} "
                    f"{getattr(place, 'in_flight', '')} {getattr(place, 'pid', '')} "
                    f"running {place.page.running_ns() / 1e9:.3f} s",
                    file=sys.stderr,
                )
    sys.stderr.flush()


OWN_NAMES = ("notes", "children", "temp", "full")


def files_in(folder):
    """Return the files and folders that are not the program's own."""
    return [path for path in Path(folder).rglob("*") if path.name not in OWN_NAMES]


def main():
    seed, folder, answer_fd, *numbers = sys.argv[1:]
    faulthandler.enable()
    # the driver asks for all stacks when a program does not end
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGUSR2, print_calls)
    session = Session(int(seed), Path(folder), int(answer_fd))
    for number in map(int, numbers):
        session.run(number)
    session.say(end=True)


if __name__ == "__main__":
    main()
