"""Build cypar with a sanitizer and run the stress test of its native core.

    python tests/sanitizers/run.py thread           ThreadSanitizer
    python tests/sanitizers/run.py address          AddressSanitizer
    python tests/sanitizers/run.py undefined        UndefinedBehaviorSanitizer
    python tests/sanitizers/run.py valgrind         memcheck, with an ordinary build

The interpreter itself need not be built with it: the sanitizer's library is loaded
before it, sees every pthread call, allocation and atomic of the instrumented modules,
and the GIL is made of pthread calls. Python with setuptools and Cython, gcc or clang,
and for the last one valgrind are needed. Exits with 1 if anything is reported.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
BODIES = ("engine_bodies", "group_bodies", "kernel_functions")
NATIVE = ROOT / "tests" / "kernels" / "native"

LIBRARIES = {
    "thread": "libtsan.so",
    "address": "libasan.so",
    "undefined": "libubsan.so",
    "valgrind": None,
}
# What each of them prints when it has found something.
FINDINGS = {
    "thread": "WARNING: ThreadSanitizer",
    "address": "ERROR: AddressSanitizer",
    "undefined": "runtime error:",
}
INNERMOST = 3  # frames of a valgrind report, of which one must be ours
BUILD_BODIES = """
from Cython.Build import cythonize
from setuptools import Extension, setup

setup(name="bodies", ext_modules=cythonize([Extension("*", ["*.pyx"])]))
"""


def flags(kind):
    """Return (flags of the compiler, flags of the linker)."""
    if kind == "valgrind":
        return "-g -O1", ""
    flag = f"-fsanitize={kind}"
    return f"{flag} -g -O1 -fno-omit-frame-pointer", flag


def build(kind, folder):
    """Build cypar and the test's own module; return the folders to import from."""
    compiling, linking = flags(kind)
    env = {**os.environ, "CFLAGS": compiling, "LDFLAGS": linking}
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", folder]
    run(command, cwd=ROOT, env=env)
    (package,) = folder.glob("lib*")
    bodies = folder / "bodies"
    bodies.mkdir(exist_ok=True)
    for file in ("native_tools.pxd", *(f"{name}.pyx" for name in BODIES)):
        shutil.copy(NATIVE / file, bodies)
    (bodies / "setup.py").write_text(BUILD_BODIES, encoding="utf-8")
    env["PYTHONPATH"] = str(package)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    run(command, cwd=bodies, env=env)
    return package, bodies


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    return done


def library_path(kind):
    name = LIBRARIES[kind]
    compiler = os.environ.get("CC", "gcc").split()[0]
    path = run([compiler, f"-print-file-name={name}"]).stdout.strip()
    if not os.path.isabs(path):
        sys.exit(f"{compiler} has no {name}: install the sanitizer's runtime library")
    return path


def stress(kind, package, bodies, seconds, n_threads):
    """Run the stress test; return its output and its exit status."""
    script = [sys.executable, HERE / "stress.py", str(seconds), str(n_threads), bodies]
    env = {**os.environ, "PYTHONPATH": str(package), "PYTHONMALLOC": "malloc"}
    if kind == "valgrind":
        command = ["valgrind", "--error-exitcode=0", "--num-callers=25", *script]
    else:
        env["LD_PRELOAD"] = library_path(kind)
        env["TSAN_OPTIONS"] = "history_size=4"
        # CPython frees little at exit on purpose, so leaks say nothing here.
        env["ASAN_OPTIONS"] = "detect_leaks=0"
        # Sanitizers of older compilers do not know all address layouts.
        no_random_layout = ["setarch", "-R"] if shutil.which("setarch") else []
        command = [*no_random_layout, *script]
    done = subprocess.run(
        list(map(str, command)),
        cwd=bodies,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.stdout, done.returncode


def count_findings(kind, output):
    """Count the reports in a sanitizer's output."""
    if kind != "valgrind":
        return output.count(FINDINGS[kind])
    # CPython's own modules are not free of reports; ours have Cython's prefix.
    stacks = re.split(r"^==\d+== $", output, flags=re.MULTILINE)
    frames = [re.findall(r"(?:at|by) 0x\w+: (.*)", stack) for stack in stacks]
    return sum(any("__pyx_" in f for f in found[:INNERMOST]) for found in frames)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=LIBRARIES)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=3)
    arguments = parser.parse_args()
    kind = arguments.kind
    folder = ROOT / "build" / "sanitize" / kind
    package, bodies = build(kind, folder)
    output, status = stress(kind, package, bodies, arguments.seconds, arguments.threads)
    ours = [line for line in output.splitlines() if "cypar" in line]
    n_found = count_findings(kind, output)
    log = folder / "log.txt"
    log.write_text(output, encoding="utf-8")
    print(*ours[:1], *output.splitlines()[-1:], sep="\n")
    print(f"{kind}: {n_found} findings, exit status {status}; all output in {log}")
    sys.exit(1 if n_found or status else 0)


if __name__ == "__main__":
    main()
