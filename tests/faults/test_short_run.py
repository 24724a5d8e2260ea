"""A short run of the random programs, and that the checker sees what is wrong.

The long runs are `make faults` and `make mutants`; see CONTRIBUTING.md.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cypar

FOLDER = Path(__file__).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="watches processes in /proc"),
]


def run_faults(*arguments):
    """Run ``python tests/faults`` in a new process; returns it when it has ended."""
    env = dict(os.environ)
    root = FOLDER.parents[1]
    if root / "cypar" in Path(cypar.__file__).parents:  # built in place
        env["PYTHONPATH"] = os.pathsep.join([str(root), env.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(FOLDER), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=170,
        env=env,
        check=False,
    )


@pytest.mark.timeout(180)
def test_random_programs_with_random_faults():
    """As many as run in some ten seconds."""
    done = run_faults("-n", 40, "--seed", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no violation" in done.stdout


def test_same_seed_same_programs():
    first, second = (run_faults("-n", 30, "--seed", 7, "--show") for _ in range(2))
    assert first.stdout == second.stdout
    assert len(first.stdout.splitlines()) == 30


PATCHES = sorted((FOLDER / "mutants").glob("*.patch"))


@pytest.mark.skipif(shutil.which("git") is None, reason="git applies the patches")
@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: path.stem)
def test_mutants_still_apply(patch):
    done = subprocess.run(
        ["git", "apply", "--check", str(patch)],
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
