"""Kernels: C functions without the GIL, beside OpenMP.

K1-K4   1e6 items of some 200 ns: even, growing, a few long ones, long ones at the end
K5      the first of them on one thread
K6..    regions of 2, 8 and 32 items of 0.75 us; beside a busy process; what is burnt
K7      `delayed(kernel)(row, n)` in Parallel
K8, K8C `Kernel.map` over rows: what a row and what a call cost
K9, K9A row sums and axpy over 1 GB
K10     Ctrl-C inside a long loop
"""

import subprocess
import sys
import time
from contextlib import contextmanager
from functools import cache

import native_loops
import numpy as np
import pytest
from contenders import cypar_call, joblib_call
from fresh import probe
from harness import (
    EFFICIENCY,
    MICROSECONDS,
    MILLISECONDS,
    Contender,
    Row,
    Unit,
    at_least,
    at_most,
    settings,
)
from limits import bare_threads
from workloads import seconds_of

from cypar import Kernel

NANOSECONDS_OVER = Unit("ns over plain", lambda s, plain: (s - plain) * 1e9)
SCHEDULES = ("static", "dynamic", "guided")
# libgomp's threads spin for milliseconds after a loop, on the core of who comes next
PAUSE_S = 0.02


@pytest.fixture(scope="module")
def loops():
    return native_loops.load()


@cache
def steps_in(ns):
    """Return how many steps an item of this length has, here and now."""
    steps, out = np.full(100, 1000, "i4"), np.empty(100)
    run = native_loops.load().items_serial
    step_s = min(seconds_of(run, steps, out) for _ in range(30)) / steps.sum()
    return max(1, round(ns * 1e-9 / step_s))


# ---- long loops ----------------------------------------------------------------------


def even(n):
    return np.full(n, steps_in(200))


def linear(n):
    return np.linspace(0, steps_in(400), n)


def sparse(n):
    """One in a thousand is 300 times as long as the others, at random places."""
    steps = np.full(n, steps_in(150))
    places = np.random.default_rng(1).choice(n, max(1, n // 1000), replace=False)
    steps[places] *= 300
    return steps


def tail(n):
    """The last hundredth has nine tenths of the work."""
    steps = np.full(n, steps_in(20))
    steps[-(n // 100) :] *= 900
    return steps


def items(loops, steps, repeat=1, n_jobs=2):
    """Return all contenders for items of these lengths, the operations being items."""
    steps = np.ascontiguousarray(np.maximum(steps, 1), "i4")
    out = np.empty(len(steps))
    n = len(steps) * repeat

    def contender(name, role, function, **options):
        return Contender.simple(
            name, role, lambda: function(steps, out, repeat), n=n, **options
        )

    ours = contender(
        "cypar", "cypar", lambda *args: loops.items_cypar(*args, n_jobs=n_jobs)
    )
    peers = []
    if loops.has_openmp:
        peers += [
            contender(f"prange {name}", "peer", getattr(loops, f"items_{name}"))
            for name in SCHEDULES
        ]
    if repeat == 1:
        peers += numba_prange(contender)
    return [ours, *peers, contender("serial C", "plain", loops.items_serial)]


def numba_prange(contender):
    """Return the loop of numba as a contender, if it is installed."""
    try:
        import numba
    except ImportError:
        return []
    numba.set_num_threads(min(2, numba.get_num_threads()))

    @numba.njit(parallel=True)
    def loop(steps, out, repeat):
        for i in numba.prange(len(steps)):
            x = 1.0
            for _ in range(steps[i]):
                x = x * 0.999 + 0.5
            out[i] = x

    return [contender("numba prange", "peer", loop)]


def long_loop(loops, key, title, steps, **bounds):
    bounds.setdefault("must", [])
    bounds["must"] += [
        at_least(1 / 1.1, f"prange {s}", figure="best") for s in SCHEDULES
    ]
    aim = [at_least(1.0, f"prange {s}", figure="best") for s in SCHEDULES]
    return Row(
        key,
        title,
        EFFICIENCY,
        items(loops, steps),
        aim=aim,
        rounds=7,
        pause_s=PAUSE_S,
        **bounds,
    )


def bench_k1_even(measure, loops):
    """Items of 200 ns."""
    n = settings.size(1_000_000)
    measure(long_loop(loops, "K1", "1e6 items, even", even(n)))


def bench_k2_linear(measure, loops):
    """Items from 0 to 400 ns: a fixed share for each thread is no good."""
    steps = linear(settings.size(1_000_000))
    must = [at_least(1.4, "prange static", figure="best")]
    must += [at_least(1.4, "numba prange", figure="best")]
    measure(long_loop(loops, "K2", "1e6 items, growing", steps, must=must))


def bench_k3_sparse(measure, loops):
    """A thousand items of 45 us among others of 150 ns."""
    n = settings.size(1_000_000)
    measure(long_loop(loops, "K3", "1e6 items, few long", sparse(n)))


def bench_k4_tail(measure, loops):
    """Nine tenths of the work in the last hundredth."""
    steps = tail(settings.size(1_000_000))
    must = [at_least(1.7, "prange static", figure="best")]
    must += [at_least(1.7, "numba prange", figure="best")]
    measure(long_loop(loops, "K4", "1e6 items, long at the end", steps, must=must))


def bench_k5_one_worker(measure, loops):
    """One thread: what the chunks cost."""
    steps = even(settings.size(1_000_000))
    contenders = items(loops, steps, n_jobs=1)
    row = Row(
        "K5",
        "1e6 items of 200 ns, one worker",
        Unit("ns", lambda seconds, plain: seconds * 1e9),
        [contenders[0], contenders[-1]],
        must=[at_most(1.03, "serial C", figure="best")],
        rounds=9,
    )
    measure(row)


# ---- small regions -------------------------------------------------------------------


def region(loops, n_items, repeat, **bounds):
    """Return a row of regions of a few items of 0.75 us."""
    contenders = items(loops, np.full(n_items, steps_in(750)), repeat)
    for contender in contenders:
        contender.n = repeat
    return Row(
        f"K6{n_items}",
        f"region of {n_items} items of 0.75 us",
        MICROSECONDS,
        [c for c in contenders if c.name not in ("prange dynamic", "prange guided")],
        pause_s=PAUSE_S,
        **bounds,
    )


def bench_k62_two_items(measure, loops):
    """The shortest region, again and again."""
    measure(region(loops, 2, settings.size(20_000), must=[at_most(2.5)]))


def bench_k68_eight_items(measure, loops):
    """Must be no slower than one thread."""
    must = [at_most(1.0, "serial C")]
    measure(region(loops, 8, settings.size(10_000), must=must))


def bench_k632_thirty_two_items(measure, loops):
    """Long enough for two threads."""
    must = [at_most(1.15, "prange static")]
    measure(region(loops, 32, settings.size(5_000), must=must))


def bench_k6b_beside_a_busy_process(measure, loops):
    """A region of 2 items while another process has one of the cores."""
    steps = np.full(2, steps_in(750)).astype("i4")
    out = np.empty(2)
    calls = settings.size(2_000)

    @contextmanager
    def with_busy_process():
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
            try:
                yield lambda: loops.items_cypar(steps, out)
            finally:
                process.kill()

    contenders = [Contender("cypar", "cypar", with_busy_process, calls=calls)]
    if loops.has_openmp:
        run = lambda: loops.items_static(steps, out)  # noqa: E731
        contenders.append(
            Contender.simple("prange static", "peer", run, calls=min(calls, 200))
        )
    row = Row(
        "K6B",
        "region of 2 items beside a busy process",
        MICROSECONDS,
        contenders,
        must=[at_most(100, figure="p99")],
        rounds=3,
    )
    measure(row)


def bench_k6c_burnt_after_a_region(measure, loops):
    """CPU time from 0.2 ms after a region on: helpers must be asleep."""
    steps = np.full(32, steps_in(750)).astype("i4")
    out = np.empty(32)

    def burnt(function):
        def run():
            if function is not None:
                function(steps, out, 20)
            until = time.perf_counter() + 200e-6
            while time.perf_counter() < until:
                pass
            before = time.process_time()
            time.sleep(0.01)
            return {"value": 1e6 * (time.process_time() - before)}

        return run

    def contender(name, role, function):
        return Contender.simple(
            name, role, burnt(function), judge=lambda result, seconds: result, calls=20
        )

    row = Row(
        "K6C",
        "CPU used in 10 ms, from 0.2 ms after a region on",
        Unit("us", lambda seconds, plain: float("nan")),
        [
            contender("cypar", "cypar", loops.items_cypar),
            contender("prange static", "peer", loops.items_static),
            contender("only the sleep", "limit", None),
        ],
        must=[at_most(1.0, "only the sleep", plus=20)],
        rounds=5,
    )
    measure(row)


# ---- from Python ---------------------------------------------------------------------


def bench_k7_delayed_kernel(measure, loops):
    """Rows that exist already; the kernel itself takes 5 ns."""
    n, few = settings.size(100_000), settings.size(5_000)
    rows = list(np.random.default_rng(1).random((n, 8)))
    kernel = Kernel(loops, "row_sum")

    def wrapper(row, n):
        return kernel(row, n)

    def tasks(function, number):
        return lambda delayed: (delayed(function)(row, 8) for row in rows[:number])

    row = Row(
        "K7",
        "delayed(kernel)(row, n), threads",
        MICROSECONDS,
        [
            cypar_call(tasks(kernel, n), n=n, backend="threading"),
            joblib_call(
                tasks(wrapper, few),
                n=few,
                name="joblib-threading",
                backend="threading",
                note=f"only {few} tasks",
            ),
            Contender.simple(
                "loop over rows", "plain", lambda: [kernel(r, 8) for r in rows], n=n
            ),
        ],
        must=[at_most(0.35), at_most(1 / 100, of="joblib")],
        aim=[at_most(0.25)],
        rounds=9,
    )
    measure(row)


def mapped_rows(loops, key, title, name, n_columns, must):
    n = settings.size(1_000_000)
    x = np.random.default_rng(1).random((n, n_columns))
    out = np.empty(n)
    kernel = Kernel(loops, name)
    serial = loops.rows_serial if name == "row_sum" else loops.nothing_serial
    return Row(
        key,
        title,
        NANOSECONDS_OVER,
        [
            Contender.simple(
                "cypar",
                "cypar",
                lambda: kernel.map(x, n_columns, out=out, n_jobs=1),
                n=n,
            ),
            Contender.simple("C loop", "plain", lambda: serial(x, out), n=n),
        ],
        must=must,
        rounds=9,
    )


def bench_k8_map_rows(measure, loops):
    """One thread, so that only the way to each row is added."""
    title = "Kernel.map over 1e6 rows of 64, one worker"
    measure(mapped_rows(loops, "K8", title, "row_sum", 64, [at_most(10)]))


def bench_k8c_call(measure, loops):
    """A function that does nothing, beside a loop that calls it by its pointer."""
    title = "Kernel.map, one call of an empty function"
    measure(mapped_rows(loops, "K8C", title, "nothing", 1, [at_most(4)]))


# ---- as much memory as possible ----------------------------------------------------


def bench_k9_row_sums(measure, loops):
    """Rows of 8 kB."""
    x = np.ones((settings.size(125_000), 1000))
    out = np.empty(len(x))
    kernel = Kernel(loops, "row_sum")
    row = memory_row(
        "K9",
        "row sums over 1 GB",
        x.nbytes,
        lambda: loops.rows_cypar(x, out),
        [
            ("prange static", lambda: loops.rows_static(x, out)),
            ("prange dynamic", lambda: loops.rows_dynamic(x, out)),
            ("cypar Kernel.map", lambda: kernel.map(x, 1000, out=out, n_jobs=2)),
        ],
        lambda part, r: loops.rows_serial(x, out, r.start, r.stop),
        len(x),
    )
    measure(row)


def bench_k9a_axpy(measure, loops):
    """y += a x: twice as much is read as written."""
    x, y = np.ones((2, settings.size(62_500_000)))
    row = memory_row(
        "K9A",
        "axpy over 1 GB",
        x.nbytes + 2 * y.nbytes,
        lambda: loops.axpy_cypar(x, y),
        [
            ("prange static", lambda: loops.axpy_static(x, y)),
            ("prange dynamic", lambda: loops.axpy_dynamic(x, y)),
        ],
        lambda part, r: loops.axpy_serial(x, y, r.start, r.stop),
        len(x),
    )
    measure(row)


def memory_row(key, title, n_bytes, ours, peers, run_part, n):
    threads = bare_threads(run_part, n)
    threads.n = n_bytes
    return Row(
        key,
        title,
        Unit("GB/s", lambda seconds, plain: 1e-9 / seconds, more_is_better=True),
        [
            Contender.simple("cypar", "cypar", ours, n=n_bytes),
            *(Contender.simple(name, "peer", run, n=n_bytes) for name, run in peers),
            threads,
        ],
        must=[
            at_least(0.97, "prange static"),
            at_least(0.97, "prange dynamic"),
            at_least(0.95, "bare threads"),
        ],
        rounds=15,
        pause_s=PAUSE_S,
    )


# ---- interruption --------------------------------------------------------------------


def bench_k10_ctrl_c(measure, loops):
    """From the signal to KeyboardInterrupt, the slowest of ten times."""
    row = Row(
        "K10",
        "Ctrl-C inside a long parallel_for",
        MILLISECONDS,
        [probe("cypar", "cypar", "interrupt.py", native_loops.folder())],
        must=[at_most(100)],
        rounds=1,
        warm_up=False,
    )
    measure(row)
