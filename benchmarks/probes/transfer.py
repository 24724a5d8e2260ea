"""Run one workload with large data, and print how long its calls took.

``transfer.py LIBRARY WORKLOAD MEGABYTES STYLE``. LIBRARY is cypar, joblib, ray (STYLE
does not matter) or copy (a copy into fresh shared memory: no library at all). STYLE is

block   all calls in one with-block
fresh   a new Parallel for each
share   cypar.share of the data, in one with-block
memory  as `block`, without times: the peak of the memory of all processes

Printed, as JSON:

value    seconds of the first call with the data; in `memory`, the peak in MB
again_s  seconds of the next call with the same data
warm_s   seconds of a call with other data of the same size, after that
"""

import gc
import importlib
import json
import mmap
import os
import sys
import threading
import time
from contextlib import nullcontext
from functools import partial

from large_data import WORKLOADS
from process_memory import family, own_bytes, shared_bytes


def main(library, workload, megabytes, style):
    workload = WORKLOADS[workload](megabytes)
    if library == "copy":
        print(json.dumps(copy_times(workload)))
        return
    if library == "ray":
        print(json.dumps(ray_times(workload)))
        return
    library = importlib.import_module(library)
    # workers are up, and have imported what tasks need
    small = type(workload)(0.05)
    call_once = caller(library, small)
    call_once(small.make(0))
    if style == "memory":
        data = workload.make(1)
        gc.collect()
        with Peak() as peak, library.Parallel(n_jobs=2) as parallel:
            for _ in range(2):
                one_call(library, parallel, workload, data)
        print(json.dumps({"value": peak.megabytes}))
        return
    print(json.dumps(times(library, workload, style)))


def caller(library, workload):
    def call(data):
        with library.Parallel(n_jobs=2) as parallel:
            one_call(library, parallel, workload, data)

    return call


def one_call(library, parallel, workload, data):
    """Make one call; returns its seconds."""
    start = time.perf_counter()
    results = parallel(workload.tasks(library.delayed, data))
    seconds = time.perf_counter() - start
    if not workload.check(data, results):
        raise RuntimeError("wrong results")
    return seconds


def times(library, workload, style):
    """Return the seconds of the first call, the next one, and one with other data."""
    block = style != "fresh"
    with library.Parallel(n_jobs=2) if block else nullcontext() as parallel:

        def call(data):
            used = parallel or library.Parallel(n_jobs=2)
            return one_call(library, used, workload, data)

        return three_calls(workload, call, library.share if style == "share" else None)


def three_calls(workload, call, prepare=None):
    """Return the seconds that `call(data)` returns, twice for the same data."""
    found = []
    for seed in (1, 2):
        data = workload.make(seed)
        if prepare is not None:
            prepare(data)
        for _ in range(2 if seed == 1 else 1):
            gc.collect()
            found.append(call(data))
        del data
    return dict(zip(("value", "again_s", "warm_s"), found, strict=True))


def ray_times(workload):
    """Return the seconds of three calls with two workers of Ray."""
    import ray

    remotes = {}

    def delayed(function):
        if function not in remotes:
            remotes[function] = ray.remote(function)
        return remotes[function].remote

    def call(used, data):
        start = time.perf_counter()
        results = ray.get(list(used.tasks(delayed, data)))
        seconds = time.perf_counter() - start
        if not used.check(data, results):
            raise RuntimeError("wrong results")
        return seconds

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
        object_store_memory=4_000_000_000,
    )
    try:
        small = type(workload)(0.05)
        call(small, small.make(0))  # workers are up
        return three_calls(workload, partial(call, workload))
    finally:
        ray.shutdown()


def copy_times(workload):
    """Return the seconds of one copy of the data into new shared memory."""
    import numpy as np

    arrays = [np.full(workload.nbytes // 8, 1.0)]
    if workload.n_tasks == 40:
        arrays = [a for a in workload.make(1) if hasattr(a, "nbytes")] or arrays
    found = []
    for _ in range(3):
        start = time.perf_counter()
        for array in arrays:
            fd = os.memfd_create("copy")
            os.ftruncate(fd, array.nbytes)
            mapping = mmap.mmap(fd, array.nbytes)
            np.frombuffer(mapping, array.dtype)[:] = array
            os.close(fd)
            del mapping
        found.append(time.perf_counter() - start)
    seconds = sorted(found)[1]
    return {"value": seconds, "again_s": seconds, "warm_s": seconds}


class Peak:
    """Watch the memory of this process and of all it has started.

    Pages of their own (PSS) and shared memory are added up. The PSS of shared memory
    itself would not do: the processes are looked at one after the other, and a page
    that is mapped by another one meanwhile counts twice. It also leaves out files in
    shared memory that nobody has mapped just then.
    """

    def __enter__(self):
        self.megabytes = 0.0
        self.shared_before = shared_bytes()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def watch(self):
        while not self.ended.wait(0.01):
            total = sum(map(own_bytes, family(os.getpid())))
            total += shared_bytes() - self.shared_before
            self.megabytes = max(self.megabytes, total / 1e6)


main(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4])
