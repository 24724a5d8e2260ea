"""Large data: arrays, frames, bytes and dicts to tasks, and arrays back.

P4   a 400 MB array to 16 tasks: first call, the next one, and one on warm memory
P5   40 distinct arrays of 5 to 50 MB, 1.1 GB in all; and again, other ones
P6   16 results of 50 MB
P7   a 200 MB DataFrame to 8 tasks
P8   200 MB of bytes to 8 tasks
P8D  a dict of 200,000 keys to 40 tasks; P8S with share()
P4M, P5M, P6M  the peak of the memory of parent and workers in two calls
"""

from importlib.util import find_spec

import pytest
from fresh import probe
from harness import MEGABYTES, SECONDS, Row, Unit, at_least, at_most, settings

PROBE = "transfer.py"
SPEED = Unit("GB/s", lambda seconds, plain: float("nan"), more_is_better=True)
COPY = "one copy to new shared memory"
BLOCK, FRESH = "joblib with-block", "joblib fresh calls"


def contenders(workload, megabytes, speed=False, copy=True, ray=False):
    """Return cypar, joblib in both styles, the limit, and Ray if it is installed."""

    def large(name, role, library, style, **options):
        found = probe(name, role, PROBE, library, workload, megabytes, style, **options)
        if speed:
            inner = found.judge
            found.judge = lambda out, seconds: as_speed(inner(out, seconds), megabytes)
        return found

    found = [
        large("cypar", "cypar", "cypar", "block"),
        large(BLOCK, "joblib", "joblib", "block", most_rounds=3),
        large(FRESH, "joblib", "joblib", "fresh", most_rounds=3),
    ]
    if copy:
        found.append(large(COPY, "limit", "copy", "block"))
    if ray and find_spec("ray") is not None:
        found.append(large("ray", "peer", "ray", "block", most_rounds=3))
    return found


def as_speed(seconds, megabytes):
    """Return GB/s instead, named without the unit."""
    return {
        name.removesuffix("_s"): megabytes / 1000 / value
        for name, value in seconds.items()
    }


def row(measure, key, title, unit, found, must, aim=()):
    # every call starts from nothing, in a program of its own
    measure(
        Row(
            key,
            title,
            unit,
            found,
            must=must,
            aim=list(aim),
            rounds=5,
            warm_up=False,
            budget_s=60,
        )
    )


def megabytes_of(n):
    return n / 50 if settings.smoke else n


def bench_p4_one_array(measure):
    """First call, `again_s` the next, `warm_s` one with other data of that size."""
    row(
        measure,
        "P4",
        "a 400 MB array to 16 tasks",
        SECONDS,
        contenders("array", megabytes_of(400)),
        must=[
            at_most(1.35, of=COPY),
            at_most(0.4, of=COPY, figure="warm_s"),
            at_most(1.5, of=BLOCK, figure="again_s"),
        ],
        aim=[at_most(1.05, of=COPY), at_most(0.3, of=COPY, figure="warm_s")],
    )


def bench_p5_many_arrays(measure):
    """First call; `again` the same arrays; `warm` others, into recycled segments."""
    row(
        measure,
        "P5",
        "40 distinct arrays of 5 to 50 MB",
        SPEED,
        contenders("arrays", megabytes_of(1100), speed=True, ray=True),
        must=[at_least(1.3, of=BLOCK), at_least(1.8, of=BLOCK, figure="warm")],
        aim=[at_least(1.0, of=COPY), at_least(3.0, of=BLOCK, figure="warm")],
    )


def bench_p6_large_results(measure):
    row(
        measure,
        "P6",
        "16 results of 50 MB",
        SPEED,
        contenders("results", megabytes_of(800), speed=True, ray=True),
        must=[at_least(5.0, of=BLOCK), at_least(1.2, of="ray")],
        aim=[at_least(0.85, of=COPY)],
    )


def bench_p7_frame(measure):
    pytest.importorskip("pandas")
    row(
        measure,
        "P7",
        "a 200 MB DataFrame to 8 tasks",
        SECONDS,
        contenders("frame", megabytes_of(200)),
        must=[at_most(0.5, of=BLOCK), at_most(1.5, of=BLOCK, figure="again_s")],
        aim=[at_most(1.2, of=COPY)],
    )


def bench_p8_bytes(measure):
    row(
        measure,
        "P8",
        "200 MB of bytes to 8 tasks",
        SECONDS,
        contenders("bytes", megabytes_of(200)),
        must=[at_most(0.15, of=BLOCK)],
        aim=[at_most(4.0, of=COPY)],
    )


@pytest.mark.parametrize(
    ("key", "style", "most"), [("P8D", "block", 0.6), ("P8S", "share", 0.1)]
)
def bench_p8d_dict(measure, key, style, most):
    """As it is, and with `cypar.share`."""
    megabytes = 0.5 if settings.smoke else 10  # 50 bytes stand for a key
    found = contenders("dict", megabytes, copy=False)
    found[0] = probe("cypar", "cypar", PROBE, "cypar", "dict", megabytes, style)
    title = "a dict of 200,000 keys to 40 tasks"
    if style == "share":
        title += ", share()"
    row(measure, key, title, SECONDS, found, must=[at_most(most, of=BLOCK)])


@pytest.mark.parametrize(
    ("key", "workload", "megabytes", "most"),
    [
        ("P4M", "array", 400, 400 + 400 + 100),
        ("P5M", "arrays", 1100, None),
        ("P6M", "results", 800, None),
    ],
)
def bench_peak_memory(measure, key, workload, megabytes, most):
    """Sampled every 10 ms, in runs that are not timed."""
    megabytes = megabytes_of(megabytes)
    found = [
        probe("cypar", "cypar", PROBE, "cypar", workload, megabytes, "memory"),
        probe("joblib", "joblib", PROBE, "joblib", workload, megabytes, "memory"),
    ]
    must = [at_most(most)] if most else [at_most(1.0, of="joblib")]
    row(
        measure,
        key,
        f"peak memory, {workload}, {megabytes:g} MB",
        MEGABYTES,
        found,
        must,
    )
