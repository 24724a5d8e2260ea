"""Long runs: memory while a million tasks pass, CPU while nothing happens.

G1  1e6 tiny tasks from a generator to a generator, processes: growth of the parent
G1T the same with threads
I1  CPU time in 10 s of idleness after calls with threads and with processes
I8  memory of eight idle workers
"""

from fresh import probe
from harness import MEGABYTES, Row, Unit, at_most, settings

PROBE = "growth.py"


def bench_g1_million_tasks_processes(measure):
    """Peak of the resident memory over that before the call."""
    n = settings.size(1_000_000)
    row = Row(
        "G1",
        "1e6 tiny tasks, processes, generator: growth",
        MEGABYTES,
        [
            probe("cypar", "cypar", PROBE, "cypar", n, "{}"),
            probe("joblib-loky", "joblib", PROBE, "joblib", n, "{}", most_rounds=1),
        ],
        must=[at_most(20)],
        rounds=3,
        warm_up=False,
    )
    measure(row)


def bench_g1t_million_tasks_threads(measure):
    """The same with threads; joblib would need a minute for a million."""
    n, few = settings.size(1_000_000), settings.size(50_000)
    threads = '{"prefer": "threads"}'
    row = Row(
        "G1T",
        "1e6 tiny tasks, threads, generator: growth",
        MEGABYTES,
        [
            probe("cypar", "cypar", PROBE, "cypar", n, threads),
            probe(
                "joblib-threading",
                "joblib",
                PROBE,
                "joblib",
                few,
                threads,
                most_rounds=1,
                note=f"only {few} tasks",
            ),
        ],
        must=[at_most(20)],
        rounds=3,
        warm_up=False,
    )
    measure(row)


def bench_i1_idle(measure):
    """CPU time of the parent and its workers, as the scheduler counts it."""
    seconds = 0.5 if settings.smoke else 10.0
    row = Row(
        "I1",
        f"CPU used in {seconds:g} s of idleness",
        Unit("ms", lambda seconds, plain: float("nan")),
        [
            probe("cypar", "cypar", "idle.py", "cypar", seconds),
            probe("joblib", "joblib", "idle.py", "joblib", seconds),
            probe(
                "concurrent.futures", "peer", "idle.py", "concurrent.futures", seconds
            ),
        ],
        must=[at_most(5)],
        rounds=1,
        warm_up=False,
    )
    measure(row)


def bench_i8_idle_workers(measure):
    """What all processes that the parent has started hold, in PSS."""
    row = Row(
        "I8",
        "memory of 8 idle workers",
        MEGABYTES,
        [
            probe("cypar", "cypar", "workers.py", "cypar", 8),
            probe("joblib-loky", "joblib", "workers.py", "joblib", 8),
        ],
        must=[at_most(1 / 3, of="joblib")],
        rounds=3,
        warm_up=False,
    )
    measure(row)
