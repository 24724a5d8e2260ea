"""See that the fault suite notices known bugs: ``python tests/faults/mutate.py``.

Each patch in mutants/ puts one bug into a copy of the source tree, which is built and
has to fail a fixed number of random programs. A bug that survives, and a patch that
does not apply any more, make this fail.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
NEEDED = ("cypar", "tests/faults", "tests/conftest.py", "setup.py", "pyproject.toml")
KEPT = ("README.md", "LICENSE", "build")  # what the build reads, and what it has made
SUITE_S = 1800  # one mutant's programs end within this time


class Failed(Exception):
    """A step before the programs failed."""


def copy_tree(target):
    """Copy what is needed to build cypar and to run the programs."""
    for name in (*NEEDED, *KEPT):
        source = ROOT / name
        if not source.exists():
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            # times are kept: only what a patch changes is built again
            shutil.copytree(source, target / name, symlinks=True)
        else:
            shutil.copy2(source, target / name)


def run(step, command, folder, timeout_s=600):
    """Run a command in a folder; its output is shown if it fails."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=timeout_s
    )
    if done.returncode != 0:
        raise Failed(f"{step}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def apply(patch, folder, *options):
    # --directory would be relative to a repository around the folder, if there is one
    command = ["git", "apply", *options, str(patch)]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=environment
    )
    if done.returncode != 0:
        raise Failed(f"the patch does not apply:\n{done.stderr}")


def build(folder):
    command = [sys.executable, "setup.py", "build_ext", "--inplace", "-q"]
    run("the build failed", command, folder)


def first_violation(folder, options):
    """Run the programs on a tree; the first lines of what is wrong, or None."""
    command = [sys.executable, str(folder / "tests/faults"), "-x"]
    command += ["-n", str(options.n), "--seed", str(options.seed)]
    # a mutant that hangs is to be noticed soon
    command += ["--limit", str(options.limit)]
    env = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=SUITE_S, cwd=folder, env=env
    )
    if done.returncode == 0:
        return None
    lines = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    if not lines:
        raise Failed(f"the programs did not run:\n{done.stdout}{done.stderr}")
    program = next(
        line for line in done.stdout.splitlines() if line.startswith("program ")
    )
    return f"{program.split(' n_jobs')[0]}: {lines[0].strip()}"[:200]


def judge(patch, base, options):
    """Return (caught, a line about it) for one mutant."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name) / "tree"
        shutil.copytree(base, folder, symlinks=True)
        try:
            apply(patch, folder)
            build(folder)
            violation = first_violation(folder, options)
        except Failed as error:
            return False, f"FAILED    {patch.stem}: {error}"
    seconds = time.monotonic() - begun
    if violation is None:
        return False, f"SURVIVED  {patch.stem}: {options.n} programs, {seconds:.0f} s"
    return True, f"caught    {patch.stem} after {seconds:.0f} s\n          {violation}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=400, help="programs for each mutant")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--limit", type=float, default=20.0, help="seconds after which one hangs"
    )
    parser.add_argument("names", nargs="*", help="only these mutants")
    options = parser.parse_args()
    patches = sorted((FOLDER / "mutants").glob("*.patch"))
    if options.names:
        patches = [patch for patch in patches if patch.stem in options.names]
    n_caught = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        base = Path(name)
        copy_tree(base)
        build(base)
        for patch in patches:
            caught, line = judge(patch, base, options)
            n_caught += caught
            print(line, flush=True)
    print(f"{n_caught} of {len(patches)} mutants caught")
    return 0 if n_caught == len(patches) else 1


if __name__ == "__main__":
    sys.exit(main())
