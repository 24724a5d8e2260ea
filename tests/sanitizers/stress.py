"""Drive the native core from many threads at once; run by tests/sanitizers/run.py.

    python stress.py SECONDS N_THREADS FOLDER_OF_THE_BODIES

Every result is checked, so this is a test by itself; under a sanitizer it also shows
races and wrong accesses. Prints how many rounds each thread had.
"""

import array
import random
import sys
import threading
import time

sys.path.insert(0, sys.argv[3])

import engine_bodies as bodies
import group_bodies as groups
import kernel_functions
import numpy as np

import cypar
from cypar import Kernel, Parallel, delayed

row_sum = Kernel(kernel_functions, "row_sum")
fail_raise = Kernel(kernel_functions, "fail_raise", errors="exception")


def cover(rng, n_jobs):
    n = rng.randrange(1, 3000)
    counts = array.array("i", [0] * n)
    grain, burn = rng.choice([0, 0, 1, 7]), rng.choice([0, 20, 200])
    bodies.cover(counts, n, grain, n_jobs, rng.random() < 0.5, burn=burn)
    assert set(counts) == {1}


def nest(rng, n_jobs):
    assert bodies.nest(20, 20, 1, n_jobs, 20) == 400


def group(rng, n_jobs):
    n = rng.randrange(1500)
    burn, gil = rng.choice([0, 100]), rng.random() < 0.5
    assert groups.run_group(n, n_jobs, burn, gil=gil) == n


def tree(rng, n_jobs):
    assert groups.run_tree(8, n_jobs) == 511


def fail(rng, n_jobs):
    def check(begin, end):
        if begin <= 5 < end:
            raise ValueError

    try:
        bodies.call_python(check, 20, 1, n_jobs)
    except ValueError:
        return
    raise AssertionError("an exception was lost")


def reduce(rng, n_jobs):
    n = rng.randrange(1, 100_000)
    assert groups.count_items(n, n_jobs) == n


def leave(rng, n_jobs):
    groups.leave_group(50, n_jobs, array.array("q", [0]))


def python_tasks(rng, n_jobs):
    """The thread backend has the same helpers."""
    calls = (delayed(bodies.nest)(5, 5, 1, n_jobs, 20) for _ in range(4))
    assert Parallel(n_jobs=2, backend="threading")(calls) == [25] * 4


def kernel_tasks(rng, n_jobs):
    rows = [array.array("d", [i] * 5) for i in range(rng.randrange(1, 300))]
    calls = (delayed(row_sum)(row, 5) for row in rows)
    results = Parallel(n_jobs=n_jobs, backend="threading")(calls)
    assert results == [5.0 * i for i in range(len(rows))]


def failing_kernels(rng, n_jobs):
    calls = (delayed(fail_raise)(i) for i in range(200))
    try:
        Parallel(n_jobs=n_jobs, backend="threading")(calls)
    except ValueError:
        return
    raise AssertionError("an exception was lost")


def map_kernel(rng, n_jobs):
    n = rng.randrange(1, 20_000)
    x = memoryview(array.array("d", range(2 * n))).cast("B").cast("d", (n, 2))
    out = array.array("d", [0.0] * n)
    row_sum.map(x, 2, out=out, n_jobs=n_jobs)
    assert out[-1] == 4 * n - 3


def ufunc_tasks(rng, n_jobs):
    """In chunks, but for some that NumPy has to repeat."""
    x = np.full(rng.randrange(400, 5000), 4.0)
    ufunc = rng.choice([np.sqrt, np.exp, np.negative, np.square])
    wrong = rng.choice([0, 7, 100])
    with np.errstate(all="ignore"):
        calls = [
            delayed(ufunc)(-x if wrong and i % wrong == 0 else x) for i in range(200)
        ]
        results = Parallel(n_jobs=n_jobs, backend="threading")(calls)
        expected = {sign: ufunc(sign * x) for sign in (1, -1)}
    for result, (_, args, _) in zip(results, calls, strict=True):
        assert np.array_equal(
            result, expected[1 if args[0] is x else -1], equal_nan=True
        )


ACTIONS = [
    *(cover, nest, group, tree, fail, reduce, leave, python_tasks),
    *(kernel_tasks, failing_kernels, map_kernel, ufunc_tasks),
]


def work(seed, seconds, rounds):
    rng = random.Random(seed)
    end = time.monotonic() + seconds
    n = 0
    while time.monotonic() < end:
        rng.choice(ACTIONS)(rng, rng.choice([2, 3, 4, 6]))
        if rng.random() < 0.02:
            time.sleep(0.0005)  # long enough for helpers to park
        n += 1
    rounds.append(n)


def main():
    seconds, n_threads, rounds = float(sys.argv[1]), int(sys.argv[2]), []
    print("cypar:", cypar.__file__, flush=True)
    threads = [
        threading.Thread(target=work, args=(seed, seconds, rounds))
        for seed in range(n_threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rounds) == n_threads, "a thread has failed, see above"
    print("rounds:", *rounds)


if __name__ == "__main__":
    main()
