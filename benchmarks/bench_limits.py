"""Limits: what the machine itself needs, to read the other tables against.

Lfutex Lpipe Lsocket L10kB Lpickle Lbatches Ltuples Lcalls Lpython
"""

import pytest
from fresh import run_python
from harness import MICROSECONDS, MILLISECONDS, Contender, Row, settings
from limits import (
    build_and_call,
    build_tuples,
    futex_round_trip,
    pickle_batches,
    pickle_task,
    pipe_round_trip,
    socket_message,
)


def socket_10k(n):
    return socket_message(n, 10_000, name="socket, 10 kB messages")


def bare_python(n):
    return Contender.simple(
        "bare python, start to end", "limit", lambda: run_python("-c", "pass"), n=1
    )


LIMITS = {
    "Lfutex": (futex_round_trip, 1_000, MICROSECONDS),
    "Lpipe": (pipe_round_trip, 1_000, MICROSECONDS),
    "Lsocket": (socket_message, 5_000, MICROSECONDS),
    "L10kB": (socket_10k, 5_000, MICROSECONDS),
    "Lpickle": (pickle_task, 50_000, MICROSECONDS),
    "Lbatches": (pickle_batches, 50_000, MICROSECONDS),
    "Ltuples": (build_tuples, 100_000, MICROSECONDS),
    "Lcalls": (build_and_call, 100_000, MICROSECONDS),
    "Lpython": (bare_python, 1, MILLISECONDS),
}


@pytest.mark.parametrize("key", LIMITS)
def bench_limit(measure, key):
    """One limit by itself; the rows measure theirs again, in their own rounds."""
    make, n, unit = LIMITS[key]
    limit = make(settings.size(n, smallest=1))
    measure(Row(key, limit.name, unit, [limit], rounds=15, budget_s=5.0))
