"""Processes: how fast a call is, what a task costs, how well two cores are used.

P2  a call of two empty tasks, in a with-block
P2N the same as a one-liner
P3  50k tiny tasks, batch_size='auto'
P3L 10k tiny lambdas, which travel by value
P3S tiny tasks one by one, batch_size=1
P9  pure-Python tasks of 5 ms
P9L pure-Python tasks of lognormal length: makespan over a shared-queue ideal
"""

from contenders import cypar_call, joblib_call, mapped
from harness import (
    EFFICIENCY,
    MICROSECONDS,
    N_JOBS,
    TIMES_IDEAL,
    Row,
    at_least,
    at_most,
    settings,
)
from limits import (
    pickle_batches,
    pickle_task,
    pipe_round_trip,
    plain_loop,
    socket_message,
)
from workloads import (
    echo,
    lognormal_loops,
    shared_queue_makespan,
    spin,
    spin_loops_per_second,
    spin_timed,
)

CHUNKSIZES = (50, 500, 5000)


def bench_p2_warm_call(measure):
    """Latency of a warm call of two empty tasks."""
    row = Row(
        "P2",
        "warm call of 2 tasks, processes, with-block",
        MICROSECONDS,
        [
            cypar_call(echoes(2), calls=20),
            joblib_call(echoes(2), name="joblib-loky", calls=5),
            joblib_call(
                echoes(2),
                name="joblib-multiprocessing",
                role="peer",
                calls=2,
                forks=True,
                backend="multiprocessing",
            ),
            *(
                mapped(kind, echo, range(2), n=1, calls=20)
                for kind in ("mp.Pool", "cf.ProcessPool", "loky.map")
            ),
            pipe_round_trip(settings.size(300)),
        ],
        must=[at_most(200)],
        aim=[at_most(2.2, of="pipe round trip")],
        rounds=40,
        budget_s=15,
    )
    measure(row)


def bench_p2n_one_liner(measure):
    """The same as a one-liner: who keeps a pool behind the scenes is fast."""
    row = Row(
        "P2N",
        "warm call of 2 tasks, processes, one-liner",
        MICROSECONDS,
        [
            cypar_call(echoes(2), calls=20, block=False),
            joblib_call(echoes(2), name="joblib-loky", calls=5, block=False),
            mapped(
                "loky.map", echo, range(2), n=1, calls=20, note="one pool for all calls"
            ),
            mapped("mp.Pool", echo, range(2), n=1, calls=2, block=False),
            mapped("cf.ProcessPool", echo, range(2), n=1, calls=2, block=False),
            pipe_round_trip(settings.size(300)),
        ],
        must=[at_most(200)],
        aim=[at_most(2.2, of="pipe round trip")],
        rounds=40,
        budget_s=15,
    )
    measure(row)


def bench_p3_tiny_tasks(measure):
    """Per-task cost with automatic batches; the peers get the best chunk size."""
    n = settings.size(50_000)
    row = Row(
        "P3",
        "50k tiny tasks, processes, batch_size='auto'",
        MICROSECONDS,
        [
            cypar_call(echoes(n), n=n),
            joblib_call(echoes(n), n=n, name="joblib-loky"),
            joblib_call(
                echoes(n),
                n=n,
                name="joblib-multiprocessing",
                role="peer",
                forks=True,
                backend="multiprocessing",
            ),
            *(
                mapped(kind, echo, range(n), chunksize=CHUNKSIZES)
                for kind in ("mp.Pool", "cf.ProcessPool", "loky.map")
            ),
            pickle_task(n),
            pickle_batches(n),
            plain_loop(lambda: [echo(i) for i in range(n)], n),
        ],
        must=[at_most(0.3, of="joblib")],
        aim=[
            at_most(0.85, of="pickling a task both ways"),
            at_most(0.85, of="pickling batches both ways"),
        ],
        rounds=15,
    )
    measure(row)


def bench_p3l_tiny_lambdas(measure):
    """Per-task cost of a function that has to travel by value."""
    n = settings.size(10_000)
    identity = lambda i: i  # noqa: E731, a lambda is the point

    def tasks(delayed):
        return (delayed(identity)(i) for i in range(n))

    row = Row(
        "P3L",
        "10k tiny lambdas, processes, batch_size='auto'",
        MICROSECONDS,
        [
            cypar_call(tasks, n=n),
            joblib_call(tasks, n=n, name="joblib-loky"),
            mapped("loky.map", identity, range(n), chunksize=CHUNKSIZES),
            pickle_task(n),
            pickle_batches(n),
        ],
        aim=[
            at_most(1 / 10, of="joblib"),
            at_most(0.7, of="pickling a task both ways"),
        ],
        rounds=15,
    )
    measure(row)


def bench_p3s_one_by_one(measure):
    """Per-task cost with batch_size=1, against pools with chunksize=1."""
    n = settings.size(2_000)
    row = Row(
        "P3S",
        "tiny tasks, processes, batch_size=1",
        MICROSECONDS,
        [
            cypar_call(echoes(n), n=n, batch_size=1),
            joblib_call(echoes(n), n=n, name="joblib-loky", batch_size=1),
            joblib_call(
                echoes(n),
                n=n,
                name="joblib-multiprocessing",
                role="peer",
                forks=True,
                backend="multiprocessing",
                batch_size=1,
            ),
            *(
                mapped(kind, echo, range(n), name=f"{kind} chunksize=1")
                for kind in ("mp.Pool", "cf.ProcessPool", "loky.map")
            ),
            socket_message(n),
        ],
        must=[at_most(1 / 8, of="joblib"), at_most(1.0, of="mp.Pool chunksize=1")],
        aim=[at_most(2.5, of="pipelined socket message")],
    )
    measure(row)


def bench_p9_pure_python_5ms(measure):
    """Efficiency on two cores, against a plain loop over the same tasks."""
    n = settings.size(200)
    loops = int(5e-3 * spin_loops_per_second())

    def tasks(delayed):
        return (delayed(spin)(loops) for _ in range(n))

    row = Row(
        "P9",
        "5 ms pure-Python tasks, processes",
        EFFICIENCY,
        [
            cypar_call(tasks, n=n),
            joblib_call(tasks, n=n, name="joblib-loky"),
            *(
                mapped(kind, spin, [loops] * n)
                for kind in ("mp.Pool", "cf.ProcessPool", "loky.map")
            ),
            plain_loop(lambda: [spin(loops) for _ in range(n)], n),
        ],
        must=[at_least(1.0, of="joblib", plus=-0.01)],
        aim=[at_least(0.985)],
        rounds=7,
        budget_s=40,
    )
    measure(row)


def bench_p9l_lognormal(measure):
    """Makespan over that of an ideal shared queue with the same task lengths."""
    n = settings.size(200, smallest=20)
    loops = lognormal_loops(n, mean_s=5e-3)

    def tasks(delayed):
        return (delayed(spin_timed)(number) for number in loops)

    def over_ideal(lengths, seconds):
        return {"value": seconds / shared_queue_makespan(lengths, N_JOBS)}

    row = Row(
        "P9L",
        "lognormal task lengths (mean 5 ms), processes: makespan",
        TIMES_IDEAL,
        [
            cypar_call(tasks, n=n, judge=over_ideal),
            joblib_call(tasks, n=n, name="joblib-loky", judge=over_ideal),
            *(
                mapped(kind, spin_timed, loops, judge=over_ideal)
                for kind in ("mp.Pool", "cf.ProcessPool", "loky.map")
            ),
        ],
        must=[at_most(1.05)],
        aim=[at_most(1.02)],
        budget_s=25,
    )
    measure(row)


def echoes(n):
    """Return what makes `n` empty tasks."""
    return lambda delayed: (delayed(echo)(i) for i in range(n))
