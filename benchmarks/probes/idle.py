"""Print the CPU time that a library uses while it has nothing to do.

``idle.py LIBRARY SECONDS``: both kinds of workers are started by a call, and then the
parent and all its descendants are watched.
"""

import importlib
import json
import os
import sys
import time
from concurrent import futures
from operator import neg
from pathlib import Path

from process_memory import family

SETTLE_S = 0.5  # the calls have ended; what they left behind may still be parking


def start(library):
    """Make a call with threads and one with processes; return what must live on."""
    if library == "concurrent.futures":
        pools = [futures.ThreadPoolExecutor(2), futures.ProcessPoolExecutor(2)]
        for pool in pools:
            list(pool.map(neg, range(100)))
        return pools
    library = importlib.import_module(library)
    for prefer in ("threads", "processes"):
        calls = (library.delayed(neg)(i) for i in range(100))
        library.Parallel(n_jobs=2, prefer=prefer)(calls)
    return []


def cpu_ms():
    """Return the CPU time of this process and its descendants, by the scheduler."""
    pids = list(family(os.getpid()))
    nanoseconds = [
        int(file.read_text().split()[0])
        for pid in pids
        for file in Path(f"/proc/{pid}/task").glob("*/schedstat")
    ]
    return sum(nanoseconds) / 1e6, len(pids) - 1


def main(library, seconds):
    pools = start(library)
    time.sleep(SETTLE_S)
    before = cpu_ms()[0]
    looking_ms = cpu_ms()[0] - before  # a look costs some, too
    before = cpu_ms()[0]
    time.sleep(seconds)
    after, n_children = cpu_ms()
    used = max(0.0, after - before - looking_ms)
    print(json.dumps({"value": used, "children": n_children}))
    del pools


main(sys.argv[1], float(sys.argv[2]))
