"""What tasks print reaches the program's stdout and stderr, also if these are pipes."""

import pytest

SCRIPT = """
import sys, time
from cypar import Parallel, delayed

def task(i):
    print("line", i)
    print("error", i, file=sys.stderr)
    print("dot", end=" ")

for _ in range(3):
    Parallel(n_jobs=2, backend=sys.argv[1], batch_size=int(sys.argv[2]))(
        delayed(task)(i) for i in range(8)
    )
last = "import os; print('last words'); os._exit(3)"
Parallel(n_jobs=2, backend=sys.argv[1], on_error="return")([delayed(exec)(last)] * 2)
time.sleep(0.3)  # dots without a line may be written a moment after the results
"""


@pytest.mark.parametrize("start_method", [None, "exec"])
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("backend", ["processes", "multiprocessing"])
def test_nothing_printed_is_lost(run_script, backend, batch_size, start_method):
    env = {"PYTHONUNBUFFERED": None, "CYPAR_START_METHOD": start_method}
    if backend == "multiprocessing":
        env.pop("CYPAR_START_METHOD")
    done = run_script(SCRIPT, backend, batch_size, env=env)
    for i in range(8):
        assert done.stdout.count(f"line {i}\n") == 3
        assert done.stderr.count(f"error {i}\n") == 3
    assert done.stdout.count("dot ") == 24
    assert done.stdout.count("last words") == 2
