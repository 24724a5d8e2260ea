"""Fail if Cython has a warning or a performance hint for any module of cypar.

A performance hint usually is a C function without an error rule, after which Cython
takes the GIL to look for an exception: correct, slow, and easy to overlook.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

COMPLAINTS = ("performance hint:", "warning:")


def translate():
    """Translate every .pyx to C in a folder that is thrown away; return the output."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "setup.py", "--name"],  # translates, compiles nothing
            cwd=Path(__file__).parents[1],
            env={**os.environ, "CYPAR_CYTHON_DIR": folder},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        sys.exit(f"Cython failed:\n{done.stdout}")
    return done.stdout


def main():
    """Print the complaints and exit with 1 if there are any."""
    output = translate()
    lines = output.splitlines()
    complaints = [line for line in lines if line.startswith(COMPLAINTS)]
    n_modules = sum("Cythonizing" in line for line in lines)
    if n_modules == 0:
        sys.exit(f"no module was translated, so nothing was checked:\n{output}")
    print(*complaints, sep="\n", end="\n" if complaints else "")
    print(f"{n_modules} modules, {len(complaints)} complaints of Cython")
    sys.exit(1 if complaints else 0)


if __name__ == "__main__":
    main()
