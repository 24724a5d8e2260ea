"""Threads: what a task costs, how well two cores are used, how fast a call is.

T1  1e5 empty Python tasks
T2  tasks of 40 us that release the GIL
T3  ufunc calls of 4.4 us, of which most is outside the GIL
T4  GIL-free tasks whose lengths follow a power law
T5  a call of two empty tasks, in a with-block
T5N the same as a one-liner, with a new Parallel each time
"""

import numpy as np
from contenders import chunked_threads, cypar_call, joblib_call, mapped
from harness import EFFICIENCY, MICROSECONDS, Row, at_least, at_most, settings
from limits import (
    bare_threads,
    build_and_call,
    build_tuples,
    futex_round_trip,
    plain_loop,
)
from workloads import digest, digest_size, echo, power_law_sizes, ufunc_arrays

CHUNKS = (2, 8, 32, 128)  # tried by hand, as a careful user would
CHUNKSIZES = (10, 100, 1000)


def bench_t1_empty_tasks(measure):
    """Per-task cost; must be far below joblib, aims at the cost of the tuples."""
    n, few = settings.size(100_000), settings.size(10_000)
    row = Row(
        "T1",
        "1e5 empty Python tasks, threads",
        MICROSECONDS,
        [
            cypar_call(echoes(n), n=n, backend="threading"),
            joblib_call(
                echoes(few),
                n=few,
                name="joblib-threading",
                backend="threading",
                note=f"only {few} tasks",
            ),
            joblib_call(
                echoes(few), n=few, name="joblib-sequential", role="peer", n_jobs=1
            ),
            mapped("cf.ThreadPool", echo, range(few), note=f"only {few} tasks"),
            mapped("mp.ThreadPool", echo, range(n), chunksize=CHUNKSIZES),
            chunked_threads(lambda part: [echo(i) for i in part], n, CHUNKS),
            build_tuples(n),
            build_and_call(n),
            plain_loop(lambda: [echo(i) for i in range(n)], n),
        ],
        must=[at_most(0.35), at_most(1 / 100, of="joblib")],
        aim=[at_most(1.6, of="task tuples"), at_most(1.4, of="tuples and calls")],
    )
    measure(row)


def bench_t2_gil_free_40us(measure):
    """Efficiency on two cores, against a plain loop over the same tasks."""
    n, few = settings.size(10_000), settings.size(5_000)
    size = digest_size(40e-6)

    def part(thread, indexes):
        for _ in indexes:
            digest(size)

    row = Row(
        "T2",
        "40 us GIL-free tasks, threads",
        EFFICIENCY,
        [
            cypar_call(calls(digest, n, size), n=n, backend="threading"),
            joblib_call(
                calls(digest, few, size),
                n=few,
                name="joblib-threading",
                backend="threading",
                note=f"only {few} tasks",
            ),
            mapped("cf.ThreadPool", digest, [size] * few, note=f"only {few} tasks"),
            mapped("mp.ThreadPool", digest, [size] * n, chunksize=CHUNKSIZES),
            chunked_threads(lambda part: [digest(size) for _ in part], n, CHUNKS),
            bare_threads(part, n),
            plain_loop(lambda: [digest(size) for _ in range(n)], n),
        ],
        must=[at_least(0.95)],
        aim=[at_least(0.99, of="bare threads")],
        rounds=9,
    )
    measure(row)


def bench_t3_ufunc_4us(measure):
    """Efficiency of tasks so short that waking a second thread may cost more."""
    n, few = settings.size(50_000), settings.size(5_000)
    x, outs = ufunc_arrays(np, 4.4e-6)
    sqrt = np.sqrt

    def tasks(number):
        return lambda delayed: (delayed(sqrt)(x, outs[i & 1]) for i in range(number))

    def part(thread, indexes):
        out = outs[thread]
        for _ in indexes:
            sqrt(x, out)

    def loop(indexes):
        return [sqrt(x, outs[i & 1]) for i in indexes]

    row = Row(
        "T3",
        "4.4 us ufunc tasks, threads",
        EFFICIENCY,
        [
            cypar_call(tasks(n), n=n, backend="threading"),
            joblib_call(
                tasks(few),
                n=few,
                name="joblib-threading",
                backend="threading",
                note=f"only {few} tasks",
            ),
            chunked_threads(loop, n, (8, 32, 128, 512)),
            mapped(
                "mp.ThreadPool",
                lambda i: sqrt(x, outs[i & 1]),
                range(n),
                chunksize=CHUNKSIZES,
            ),
            bare_threads(part, n),
            plain_loop(lambda: loop(range(n)), n, name="serial"),
        ],
        must=[
            at_least(0.95, of="cf.ThreadPool chunks"),
            at_least(1.0, of="serial"),
        ],
        aim=[at_least(1.1, of="cf.ThreadPool chunks")],
        rounds=9,
    )
    measure(row)


def bench_t4_power_law(measure):
    """Efficiency of tasks of 5 us to 5 ms; the ideal is half of the serial time."""
    sizes = power_law_sizes(settings.size(4_000, smallest=40), 5e-6, 5e-3)
    n = len(sizes)

    def tasks(delayed):
        return (delayed(digest)(size) for size in sizes)

    row = Row(
        "T4",
        "power-law GIL-free tasks, threads",
        EFFICIENCY,
        [
            cypar_call(tasks, n=n, backend="threading"),
            joblib_call(tasks, n=n, name="joblib-threading", backend="threading"),
            mapped("cf.ThreadPool", digest, sizes),
            mapped("mp.ThreadPool", digest, sizes, chunksize=(1, 4, 16, 64)),
            chunked_threads(lambda part: [digest(sizes[i]) for i in part], n, CHUNKS),
            plain_loop(lambda: [digest(size) for size in sizes], n),
        ],
        must=[at_least(0.93)],
        aim=[at_least(0.96)],
    )
    measure(row)


def bench_t5_warm_call(measure):
    """Latency of a warm call of two empty tasks."""
    measure(latency_row("T5", "warm call of 2 tasks, threads, with-block", block=True))


def bench_t5n_one_liner(measure):
    """The same as a one-liner: the peers pay for a pool each time."""
    measure(latency_row("T5N", "warm call of 2 tasks, threads, one-liner", block=False))


def latency_row(key, title, block):
    tasks = echoes(2)
    two = range(2)
    return Row(
        key,
        title,
        MICROSECONDS,
        [
            cypar_call(tasks, calls=20, block=block, backend="threading"),
            joblib_call(
                tasks,
                name="joblib-threading",
                calls=5,
                block=block,
                backend="threading",
            ),
            mapped("cf.ThreadPool", echo, two, n=1, calls=20, block=block),
            mapped("mp.ThreadPool", echo, two, n=1, calls=20, block=block),
            futex_round_trip(settings.size(300)),
        ],
        must=[at_most(100)],
        aim=[at_most(1.5, of="futex round trip")],
        rounds=40,
        budget_s=12,
    )


def echoes(n):
    """Return what makes `n` empty tasks."""
    return lambda delayed: (delayed(echo)(i) for i in range(n))


def calls(function, n, argument):
    """Return what makes `n` equal tasks."""
    return lambda delayed: (delayed(function)(argument) for _ in range(n))
