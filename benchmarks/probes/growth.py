"""Print by how many MB this process grows in a call of many tiny tasks.

``growth.py LIBRARY N OPTIONS``, OPTIONS for Parallel as JSON. The results are read
from a generator and dropped; a first call of 1000 tasks is not counted.
"""

import importlib
import json
import os
import sys
from operator import neg

LOOK_EVERY = 1000  # tasks between two looks at the memory


def main(library, n, options):
    library = importlib.import_module(library)
    parallel = library.Parallel(n_jobs=2, return_as="generator", **options)
    delayed = library.delayed
    for _ in parallel(delayed(neg)(i) for i in range(1000)):
        pass
    before = peak = resident_mb()
    read = 0
    for _ in parallel(delayed(neg)(i) for i in range(n)):
        read += 1
        if read % LOOK_EVERY == 0:
            peak = max(peak, resident_mb())
    if read != n:
        raise RuntimeError(f"{n} tasks, but {read} results")
    print(json.dumps({"value": peak - before, "before_mb": before}))


def resident_mb():
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
