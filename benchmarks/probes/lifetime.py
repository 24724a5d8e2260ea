"""Run a program from start to end of all its processes, and account for them.

``lifetime.py PROGRAM`` runs ``python PROGRAM``, which prints ``time.monotonic()`` when
it has its results. Printed, as JSON:

first_ms  from the start of the program to that moment
exit_ms   to the end of the program itself
cpu_ms    CPU time of the program and of all processes that it left or waited for

A process of its own, as it adopts what the program leaves behind (prctl's subreaper,
Linux only): workers that outlive the program are waited for and counted.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
import time

PR_SET_CHILD_SUBREAPER = 36
PATIENCE_S = 5.0  # for what outlives the program


def main(program):
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    start = time.monotonic()
    process = subprocess.run(
        [sys.executable, program], stdout=subprocess.PIPE, text=True, check=True
    )
    exit_s = time.monotonic() - start
    first_s = float(process.stdout.split()[-1]) - start
    reap(time.monotonic() + PATIENCE_S)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = {
        "first_ms": first_s * 1e3,
        "exit_ms": exit_s * 1e3,
        "cpu_ms": (used.ru_utime + used.ru_stime) * 1e3,
    }
    print(json.dumps(report))


def reap(deadline):
    """Wait for all adopted processes, but not beyond the deadline."""
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.005)
    print("some processes outlived the program by 5 s", file=sys.stderr)


main(sys.argv[1])
