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

import cypar
from cypar import Parallel, delayed


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


ACTIONS = [cover, nest, group, tree, fail, reduce, leave, python_tasks]


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
