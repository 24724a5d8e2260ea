"""Crashes: a worker dies in the middle of a call.

P11  time to the exception, and (recover_ms) from there to the next good result
P11K a loop whose workers are killed 20 times, over the same loop without
"""

import os
import random
import signal
import threading
import time
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager

import joblib
from contenders import end_loky, joblib_call, open_cf_processes, open_loky
from harness import MILLISECONDS, N_JOBS, SECONDS, Contender, Row, at_most, settings
from joblib.externals.loky.process_executor import TerminatedWorkerError
from workloads import die, echo, spin, spin_loops_per_second

import cypar
from cypar.backends.pool.supervisor import pool


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
        aim=[at_most(3), at_most(10, figure="recover_ms")],
        rounds=9,
    )
    measure(row)


def bench_p11k_killed_workers(measure):
    """1,000 tasks of 5 ms; 20 random moments at which a random worker gets SIGKILL.

    No peer survives one of them; joblib is there for the loop without.
    """
    n, n_kills = settings.size(1000), settings.size(20, smallest=2)
    loops = int(5e-3 * spin_loops_per_second())

    def tasks(delayed):
        return (delayed(spin)(loops) for _ in range(n))

    def undisturbed():
        results = cypar.Parallel(n_jobs=N_JOBS)(tasks(cypar.delayed))
        assert len(results) == n

    def killed():
        with killer(n_kills, n * 5e-3 / N_JOBS):
            call = cypar.Parallel(n_jobs=N_JOBS, retries=n_kills)
            assert len(call(tasks(cypar.delayed))) == n

    row = Row(
        "P11K",
        f"{n} tasks of 5 ms, {n_kills} SIGKILLs of workers",
        SECONDS,
        [
            Contender.simple("cypar", "cypar", killed),
            Contender.simple("cypar, no kills", "limit", undisturbed),
            joblib_call(tasks, name="joblib, no kills"),
        ],
        must=[at_most(1.15, of="cypar, no kills")],
        rounds=5,
        budget_s=60,
    )
    measure(row)


@contextmanager
def killer(n_kills, seconds):
    """Kill a worker at each of ``n_kills`` random moments of the next ``seconds``."""
    end = threading.Event()
    chance = random.Random()
    start = time.perf_counter()
    moments = sorted(chance.uniform(0, seconds) for _ in range(n_kills))

    def kill():
        for moment in moments:
            end.wait(max(0.0, start + moment - time.perf_counter()))
            leased = pool.pids()[1]
            if leased:
                os.kill(chance.choice(leased), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    end.set()
    thread.join()


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
