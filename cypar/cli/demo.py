"""Parse and hash real source files, serially and in parallel, and show the times.

The input is the source of the running Python's standard library. Two jobs, each run
as a plain loop and with cypar, and each way must find the same:

    parse   `ast` builds and walks a syntax tree. Pure Python, holds the GIL,
            so it needs processes (the default backend).
    hash    `hashlib` digests each file some thirty times. C code that releases the
            GIL for nearly all of it, so threads do, and nothing has to be copied.
"""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import sysconfig
import warnings
from time import perf_counter

import cypar
from cypar import Parallel, delayed
from cypar.core.cpu import effective_n_jobs

# Installed packages live inside the standard library's folder.
NOT_STANDARD_LIBRARY = frozenset({"site-packages", "dist-packages", "__pycache__"})

ALGORITHMS = ("sha512", "sha3_512", "blake2b")
ROUNDS = 10


def add_arguments(parser):
    """Add the options of this command to an ArgumentParser."""
    parser.add_argument(
        "folder",
        nargs="?",
        default=sysconfig.get_path("stdlib"),
        help="where to look for .py files (default: the standard library)",
    )
    parser.add_argument(
        "-j",
        "--n-jobs",
        type=int,
        default=-1,
        help="tasks to run at once (default: -1, all CPUs)",
    )


def run(options):
    """Run the demo; return 0, or 1 if there was no input or the results differ."""
    n_jobs = effective_n_jobs(options.n_jobs)
    print(
        f"cypar {cypar.__version__}, {platform.python_implementation()} "
        f"{platform.python_version()}, n_jobs={n_jobs}"
    )
    print(f"input: {options.folder}")
    files = find_sources(options.folder)
    if not files:
        print("       no .py file there: give another folder")
        return 1
    largest = max(files, key=files.get)
    print(
        f"       {len(files):,} files, {sum(files.values()) / 1e6:.1f} MB; largest: "
        f"{os.path.relpath(largest, options.folder)} ({files[largest] / 1e3:.0f} kB)"
    )
    paths = list(files)
    same = run_parse_job(paths, n_jobs)
    same &= run_hash_job(paths, n_jobs)
    return 0 if same else 1


def find_sources(folder):
    """Return {path: size in bytes} of all .py files below `folder`.

    Every file is read once, so that no later time includes the first disk access.
    """
    sizes = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - NOT_STANDARD_LIBRARY)
        for name in sorted(names):
            if name.endswith(".py"):
                path = os.path.join(parent, name)
                sizes[path] = len(read_bytes(path))
    return sizes


def read_bytes(path):
    """Return the content of a file."""
    with open(path, "rb") as file:
        return file.read()


# ---- the two jobs -------------------------------------------------------------


def run_parse_job(paths, n_jobs):
    """Count the nodes of all syntax trees both ways; tell whether they agree."""
    print("\nparse: ast builds each file's syntax tree and counts its nodes")
    print("       (pure Python holds the GIL: processes, the default backend)")
    serial, serial_s = timed(lambda: [count_nodes(path) for path in paths])
    parallel, parallel_s = timed(
        lambda: Parallel(n_jobs=n_jobs)(delayed(count_nodes)(path) for path in paths)
    )
    counts = [count for count in serial if count is not None]
    print(f"       {sum(counts):,} nodes in {len(counts):,} files; ", end="")
    print(f"{len(serial) - len(counts)} files do not parse")
    report("plain loop", serial_s)
    report(f"Parallel(n_jobs={n_jobs})", parallel_s, serial_s)
    return agree(serial, parallel)


def run_hash_job(paths, n_jobs):
    """Hash all files both ways; tell whether the digests agree."""
    print(f"\nhash:  {', '.join(ALGORITHMS)} over {ROUNDS} copies of each file")
    print("       (C code releases the GIL: threads, nothing is copied)")
    serial, serial_s = timed(lambda: [fingerprint(path) for path in paths])
    parallel, parallel_s = timed(
        lambda: Parallel(n_jobs=n_jobs, prefer="threads")(
            delayed(fingerprint)(path) for path in paths
        )
    )
    print(f"       {len(set(serial)):,} different contents")
    report("plain loop", serial_s)
    report(f'Parallel(n_jobs={n_jobs}, prefer="threads")', parallel_s, serial_s)
    return agree(serial, parallel)


def count_nodes(path):
    """Return the number of syntax tree nodes in a file, or None if it is no Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old files have invalid escapes
        try:
            tree = ast.parse(read_bytes(path))
        except (SyntaxError, ValueError):  # the library's tests have broken files
            return None
    return sum(1 for _ in ast.walk(tree))


def fingerprint(path):
    """Return a digest of a file's content, repeated `ROUNDS` times, by each algorithm.

    The digest of one algorithm is the start of what the next one reads.
    """
    repeated = read_bytes(path) * ROUNDS
    digest = b""
    for algorithm in ALGORITHMS:
        state = hashlib.new(algorithm, digest)
        state.update(repeated)  # hashlib gives up the GIL for more than 2 kB
        digest = state.digest()
    return digest.hex()


# ---- printing -----------------------------------------------------------------


def timed(function):
    """Return (result of the function, seconds it took)."""
    start = perf_counter()
    result = function()
    return result, perf_counter() - start


def report(what, seconds, serial_s=None):
    """Print one time, and the speed-up over the serial one if that is given."""
    speedup = f"  {serial_s / seconds:5.2f}x" if serial_s is not None else ""
    print(f"       {what:<40} {seconds:7.2f} s{speedup}", flush=True)


def agree(serial, parallel):
    """Compare the results of both ways and print a line if they differ."""
    if serial == parallel:
        return True
    n_different = sum(a != b for a, b in zip(serial, parallel, strict=False))
    print(f"       THE RESULTS DIFFER: {n_different} of {len(serial)} files")
    return False
