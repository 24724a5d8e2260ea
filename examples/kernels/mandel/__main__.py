"""Compute a picture in each way and show what two, or more, cores make of it."""

import argparse
import time

import numpy as np

import mandel
from cypar import cpu_count
from mandel import escape

WAYS = {
    "Parallel": mandel.with_parallel,
    "Kernel.map": mandel.with_map,
    "parallel_for": mandel.with_parallel_for,
}


def main():
    parser = argparse.ArgumentParser(prog="python -m mandel", description=__doc__)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=9, help="the best one counts")
    options = parser.parse_args()
    steps = np.empty((options.rows, options.rows), "i8")
    expected = picture(steps, mandel.with_parallel_for, options.limit, 1)
    n = cpu_count()
    times = {}
    for _ in range(options.rounds):  # in turns, so that what disturbs one disturbs all
        for name, way in WAYS.items():
            for n_jobs in (1, n):
                before = time.perf_counter()
                result = picture(steps, way, options.limit, n_jobs)
                taken = time.perf_counter() - before
                assert (result == expected).all(), name
                times.setdefault((name, n_jobs), []).append(taken)
    best = {key: min(values) for key, values in times.items()}
    serial = best["parallel_for", 1]
    print(f"{options.rows} rows on {n} cores; times the speed of a plain C loop:")
    for (name, n_jobs), taken in best.items():
        speed = serial / taken
        bar = "#" * round(20 * speed)
        print(f"{name:>12}, n_jobs={n_jobs}: {1e3 * taken:7.2f} ms {speed:5.2f} {bar}")
    print(f"points inside: {escape.count_inside(steps, options.limit)}")


def picture(steps, way, limit, n_jobs):
    steps[:] = -1
    way(steps, limit, n_jobs)
    return steps.copy()


if __name__ == "__main__":
    main()
