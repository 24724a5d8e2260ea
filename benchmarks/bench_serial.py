"""One worker: what n_jobs=1 costs over a plain loop.

S1  1e5 empty tasks with n_jobs=1; the plain loop of the same round is subtracted
"""

from contenders import cypar_call, joblib_call
from harness import EXTRA_MICROSECONDS, Row, at_most, settings
from limits import build_and_call, plain_loop
from workloads import echo


def bench_s1_one_job(measure):
    """Per-task cost of Parallel(n_jobs=1) beyond the loop a user would write."""
    n, few = settings.size(100_000), settings.size(20_000)

    def tasks(number):
        return lambda delayed: (delayed(echo)(i) for i in range(number))

    row = Row(
        "S1",
        "n_jobs=1, per empty task over a plain loop",
        EXTRA_MICROSECONDS,
        [
            cypar_call(tasks(n), n=n, n_jobs=1, block=False),
            joblib_call(
                tasks(few), n=few, name="joblib n_jobs=1", n_jobs=1, block=False
            ),
            build_and_call(n),
            plain_loop(lambda: [echo(i) for i in range(n)], n),
        ],
        must=[at_most(0.3)],
        aim=[at_most(0.1)],
        rounds=21,
    )
    measure(row)
