"""Contenders that are programs of their own, in fresh interpreters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from harness import Contender

import cypar

HERE = Path(__file__).parent
PROBES = HERE / "probes"


def environment():
    """Return an environment in which this cypar and `workloads` are importable."""
    paths = [str(HERE)]
    source = Path(cypar.__file__).parents[1]
    if (source / "setup.py").exists():  # built in place, not installed
        paths.append(str(source))
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [*paths, before]))}


def run_python(*args, timeout_s=None):
    """Run Python, and kill all that it started if it takes too long.

    Returns
    -------
    str or None
        What it printed; None if it was killed.

    Raises
    ------
    RuntimeError
        If it failed, with the end of what it wrote.
    """
    process = subprocess.Popen(
        [sys.executable, *map(str, args)],
        cwd=HERE,  # `-c` would find an unbuilt cypar in the repository's root
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return None
    if process.returncode:
        raise RuntimeError(f"{args} ended with {process.returncode}:\n{err[-2000:]}")
    return out


def probe(name, role, script, *args, timeout_s=120.0, **options):
    """Return a program of the probes folder that prints its figures as JSON."""

    def judge(out, seconds):
        if out is None:
            contender.note = f"killed after {timeout_s:g} s"
            return {"value": timeout_s}
        return json.loads(out)

    contender = Contender.simple(
        name,
        role,
        lambda: run_python(PROBES / script, *args, timeout_s=timeout_s),
        judge=judge,
        **options,
    )
    return contender


def lifetime(name, role, program, **options):
    """Return a program whose value is when it printed ``time.monotonic()``, in ms."""

    def judge(out, seconds):
        figures = json.loads(out)
        return {"value": figures.pop("first_ms"), **figures}

    return Contender.simple(
        name,
        role,
        lambda: run_python(PROBES / "lifetime.py", program),
        judge=judge,
        **options,
    )
