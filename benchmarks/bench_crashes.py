"""Crashes: a worker dies in the middle of a call.

P11  time to the exception, and (recover_ms) from there to the next good result
"""

import time
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager

import joblib
from contenders import end_loky, open_cf_processes, open_loky
from harness import MILLISECONDS, N_JOBS, Contender, Row, at_most
from joblib.externals.loky.process_executor import TerminatedWorkerError
from workloads import die, echo

import cypar


def bench_p11_dead_worker(measure):
    """Each round warms a pool, has one of two tasks end its worker, and calls again."""
    row = Row(
        "P11",
        "dead worker: time to the exception",
        MILLISECONDS,
        [
            crash("cypar", "cypar", lambda: by_parallel(cypar), cypar.WorkerCrash),
            crash(
                "joblib-loky",
                "joblib",
                lambda: by_parallel(joblib),
                TerminatedWorkerError,
            ),
            crash(
                "cf.ProcessPool",
                "peer",
                lambda: by_executor(open_cf_processes),
                BrokenExecutor,
            ),
            crash("loky", "peer", lambda: by_executor(open_loky), BrokenExecutor),
        ],
        aim=[at_most(3), at_most(35, figure="recover_ms")],
        rounds=9,
    )
    measure(row)


def crash(name, role, open_calls, error):
    """Return a contender.

    Parameters
    ----------
    open_calls : callable
        Returns a context manager that gives ``call(function)``, which runs
        ``function(0)`` and ``echo(1)`` in workers and starts new ones if it has to.
    error : exception type
        What ``call(die)`` raises.
    """

    @contextmanager
    def open_crashes():
        with open_calls() as call:
            yield lambda: crash_and_recover(call, error)

    def judge(result, seconds):
        detect_s, recover_s = result
        return {"value": detect_s * 1e3, "recover_ms": recover_s * 1e3}

    return Contender(name, role, open_crashes, judge=judge)


def crash_and_recover(call, error):
    """Return the seconds to the exception, and from there to a good result."""
    call(echo)
    start = time.perf_counter()
    try:
        call(die)
    except error:
        detected = time.perf_counter()
    else:
        raise RuntimeError(f"a worker died, and there was no {error.__name__}")
    call(echo)
    return detected - start, time.perf_counter() - detected


@contextmanager
def by_parallel(library):
    delayed = library.delayed

    def call(function):
        tasks = (delayed(f)(i) for i, f in enumerate((function, echo)))
        return library.Parallel(n_jobs=N_JOBS)(tasks)

    yield call
    if library is joblib:
        end_loky()


@contextmanager
def by_executor(open_pool):
    pool = open_pool()

    def call(function):
        nonlocal pool
        try:
            futures = [pool.submit(f, i) for i, f in enumerate((function, echo))]
            return [future.result() for future in futures]
        except BrokenExecutor:
            broken, pool = pool, open_pool()
            broken.shutdown(wait=False)
            raise

    yield call
    pool.shutdown()
