"""Print what the idle workers of a library hold: `workers.py LIBRARY N`, in MB.

Everything the parent has started counts (PSS), once each of N workers has run a task.
"""

import importlib
import json
import os
import sys
import tempfile
import time

from process_memory import family, own_bytes

MEET_S = 60.0


def meet(folder, n):
    """Wait until `n` workers are here."""
    open(os.path.join(folder, str(os.getpid())), "w").close()
    deadline = time.monotonic() + MEET_S
    while len(os.listdir(folder)) < n:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(os.listdir(folder))} of {n} workers came")
        time.sleep(0.01)


def main(library, n):
    library = importlib.import_module(library)
    with tempfile.TemporaryDirectory() as folder:
        calls = (library.delayed(meet)(folder, n) for _ in range(n))
        library.Parallel(n_jobs=n, batch_size=1)(calls)
    started = set(family(os.getpid())) - {os.getpid()}
    megabytes = sum(map(own_bytes, started)) / 1e6
    print(json.dumps({"value": megabytes, "processes": len(started)}))


if __name__ == "__main__":  # workers may import this file
    main(sys.argv[1], int(sys.argv[2]))
