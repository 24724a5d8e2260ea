"""Print by how many MB this process grows in a call of many tiny tasks.

``growth.py LIBRARY N OPTIONS``, OPTIONS for Parallel as JSON. The results are read
from a generator and dropped; a first call of 1000 tasks is not counted.
"""

import importlib
import json
import sys
from operator import neg


def main(library, n, options):
    library = importlib.import_module(library)
    parallel = library.Parallel(n_jobs=2, return_as="generator", **options)
    delayed = library.delayed
    for _ in parallel(delayed(neg)(i) for i in range(1000)):
        pass
    forget_peak()
    before = peak_mb()
    read = 0
    for _ in parallel(delayed(neg)(i) for i in range(n)):
        read += 1
    if read != n:
        raise RuntimeError(f"{n} tasks, but {read} results")
    print(json.dumps({"value": peak_mb() - before, "before_mb": before}))


def forget_peak():
    """Make the kernel start anew with the peak of the resident memory."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as clear_refs:
        clear_refs.write("5")


def peak_mb():
    """Return the highest resident memory since then."""
    with open("/proc/self/status", encoding="ascii") as status:
        peak_kib = next(line.split()[1] for line in status if "VmHWM" in line)
    return int(peak_kib) * 1024 / 1e6


main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
