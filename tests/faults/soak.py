"""Mixed calls for a long time in one process: ``python tests/faults/soak.py 60``.

Prints memory, descriptors, threads and processes over time, and fails if they grow:
what the last third of the time shows is compared with the second tenth of it, when
everything is warm.
"""

import argparse
import ctypes
import gc
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from random import Random

import checker
import tasks
from notes import read_notes
from programs import make_program
from runner import Runner

from cypar import Parallel, delayed
from cypar.transport.copies import disk_arena
from cypar.transport.segments import arena

# fault -> share of its programs that run; the others would change the whole process
SHARES = {
    "none": 1.0,
    "exception": 0.5,
    "kill": 0.3,
    "exit": 0.3,
    "killer": 0.3,
    "child": 0.1,
    "timeout": 0.05,
    "fork": 0.1,
}
SAMPLE_S = 5.0
SETTLE_S = 7.0  # parked threads leave after five seconds
N_WORKERS = 4  # the largest n_jobs of the programs
MEET_S = 20.0
KB = 1024
MAX_GROWTH = 1.05  # of memory
MAX_GROWTH_KB = 8 * KB  # and at most that much beside: arenas of malloc differ


class Sample:
    """What this process and its children hold at one moment, at rest."""

    def __init__(self):
        self.rss_kb = resident_kb(os.getpid())
        # segments that tasks have kept are theirs; one more or less is chance
        self.segments = len(arena.descriptors() | disk_arena.descriptors())
        self.descriptors = len(os.listdir("/proc/self/fd")) - self.segments
        self.threads = threading.active_count()
        children = descendants(os.getpid())
        self.processes = len(children)
        self.worker_kb = max(map(resident_kb, children), default=0)

    def __str__(self):
        return (
            f"{self.rss_kb / KB:8.1f} MB {self.worker_kb / KB:8.1f} MB "
            f"{self.descriptors:6} {self.segments:6} {self.threads:6} "
            f"{self.processes:6}"
        )


def resident_kb(pid):
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") // KB
    except OSError:
        return 0


def descendants(pid):
    """Return the ids of a process's children, their children, and so on."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = list(map(int, task.read_text().split()))
        except OSError:
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def settled():
    """Return a sample at rest: the pool is full, its memory empty, threads are gone."""
    meeting = tempfile.mkdtemp(prefix="soak-")
    Parallel(n_jobs=N_WORKERS)(delayed(meet)(meeting) for _ in range(N_WORKERS))
    shutil.rmtree(meeting)
    for kept in (arena, disk_arena):
        kept.trim(0)
    gc.collect()
    trim_heap()
    best = Sample()
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline and best.threads > 1:
        time.sleep(0.1)
        best = Sample()
    return best


def trim_heap():
    """Let malloc give back what is free, or one small object keeps megabytes below it.

    The heap ends with its highest object in use: without this, memory at rest is some
    60 or some 80 MB, 24 MB of the latter being free pieces.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def meet(folder):
    """Wait until as many tasks are here as there are workers."""
    open(os.path.join(folder, str(os.getpid())), "w").close()
    deadline = time.monotonic() + MEET_S
    while len(os.listdir(folder)) < N_WORKERS and time.monotonic() < deadline:
        time.sleep(0.001)


class Soak:
    """Runs programs until the time is over.

    Parameters
    ----------
    seed : int
    seconds : float
    """

    def __init__(self, seed, seconds):
        self.seed = seed
        self.seconds = seconds
        self.random = Random(seed)
        self.root = Path(tempfile.mkdtemp(prefix="soak-"))
        self.n_programs = self.n_violations = 0
        self.samples = []  # (seconds since the beginning, Sample)

    def run(self):
        begun = time.monotonic()
        number = -1
        next_sample = 0.0
        print("     time      memory  largest worker descr. segm. threads processes")
        while (elapsed := time.monotonic() - begun) < self.seconds:
            number += 1
            program = make_program(self.seed, number)
            share = SHARES.get(program.fault, 0.0)
            if program.variant in ("segfault", "abort"):
                share = 0.0  # they print stacks
            if self.random.random() < share:
                self.run_program(program)
            if elapsed >= next_sample:
                next_sample = elapsed + max(SAMPLE_S, self.seconds / 60)
                sample = settled()
                self.samples.append((elapsed, sample))
                print(f"{elapsed:8.0f} s {sample}", flush=True)
        shutil.rmtree(self.root, ignore_errors=True)

    def run_program(self, program):
        folder = self.root / str(program.number)
        folder.mkdir()
        runner = Runner(program, str(folder))
        runner.run()
        notes = read_notes(folder)
        violations = checker.check(program, runner.records, runner.jobs, notes)
        for violation in violations:
            print(f"program {program.number}: {violation}\n  {program}", flush=True)
        self.n_programs += 1
        self.n_violations += len(violations)
        tasks.kept.clear()
        shutil.rmtree(folder, ignore_errors=True)

    def growth(self):
        """Yield a line for each quantity that has grown."""
        early = self.between(0.1, 0.3)
        late = self.between(0.67, 1.0)
        for name in ("descriptors", "threads", "processes"):
            before, after = (middle(part, name) for part in (early, late))
            if after > before:
                yield f"{name}: {before:.0f} -> {after:.0f}"
        for name in ("rss_kb", "worker_kb"):
            before, after = (middle(part, name) for part in (early, late))
            if after > before * MAX_GROWTH + MAX_GROWTH_KB:
                yield f"{name}: {before:.0f} -> {after:.0f}"

    def between(self, first, last):
        found = [
            sample
            for elapsed, sample in self.samples
            if first * self.seconds <= elapsed <= last * self.seconds
        ]
        return found or [self.samples[-1][1]]


def middle(samples, name):
    return statistics.median(getattr(sample, name) for sample in samples)


def give_memory_back():
    """Start anew with a malloc that keeps no freed memory: what is held shows then.

    glibc keeps an arena for each thread, and does not give back most of what threads
    of many sizes of arrays have freed.
    """
    settings = {
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "131072",
        "MALLOC_TRIM_THRESHOLD_": "131072",
    }
    if settings.items() <= os.environ.items():
        return
    os.environ.update(settings)
    os.execv(sys.executable, [sys.executable, *sys.argv])


def main():
    give_memory_back()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float, nargs="?", default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    soak = Soak(options.seed, options.minutes * 60)
    soak.run()
    grown = list(soak.growth())
    print(f"{soak.n_programs} programs, {soak.n_violations} violations")
    print("grown: " + ("; ".join(grown) or "nothing"))
    return 1 if grown or soak.n_violations else 0


if __name__ == "__main__":
    sys.exit(main())
