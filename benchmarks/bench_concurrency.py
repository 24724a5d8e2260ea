"""Many callers: calls from several threads at once.

C1  four threads that each make five calls, n_jobs 2, 3, 2 and 4, processes
C1T the same with threads
"""

import pytest
from fresh import probe
from harness import SECONDS, Row, at_most

PROBE = "many_callers.py"


@pytest.mark.parametrize(
    ("key", "prefer"), [("C1", "processes"), ("C1T", "threads")], ids=["c1", "c1t"]
)
def bench_four_threads_of_calls(measure, key, prefer):
    """Seconds until all have ended; joblib's processes deadlock, and are killed."""
    row = Row(
        key,
        f"4 threads x 5 calls, {prefer}",
        SECONDS,
        [
            probe("cypar", "cypar", PROBE, "cypar", prefer, timeout_s=30.0),
            probe(
                f"joblib {prefer}",
                "joblib",
                PROBE,
                "joblib",
                prefer,
                timeout_s=10.0,
                most_rounds=1,
            ),
        ],
        must=[at_most(5)],
        rounds=3,
        warm_up=False,
    )
    measure(row)
