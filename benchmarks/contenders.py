"""The libraries side by side: cypar, joblib, concurrent.futures, multiprocessing.

Each function returns a `Contender` whose pools are open, and warm after the first
round, for as long as its row is measured.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import joblib
from harness import N_JOBS, Contender
from joblib.externals import loky
from workloads import seconds_of

import cypar

# fork, where it can be had, is the fastest start and the cheapest pipe for the peers.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"


# ---- the same call for cypar and joblib ----------------------------------------------


def cypar_call(tasks, *, name="cypar", n_jobs=N_JOBS, block=True, n=1, **options):
    """Return cypar as a contender; see `_parallel`."""
    parallel, for_contender = _split(options)
    return Contender(
        name,
        "cypar",
        lambda: _parallel(cypar, tasks, block, n_jobs=n_jobs, **parallel),
        n=n,
        **for_contender,
    )


def joblib_call(
    tasks, *, name, role="joblib", n_jobs=N_JOBS, block=True, n=1, **options
):
    """Return joblib as a contender; see `_parallel`."""
    parallel, for_contender = _split(options)
    return Contender(
        name,
        role,
        lambda: _parallel(joblib, tasks, block, n_jobs=n_jobs, **parallel),
        n=n,
        **for_contender,
    )


def _split(options):
    """Divide options into those of Parallel and those of Contender."""
    mine = ("calls", "judge", "forks", "most_rounds", "note")
    for_contender = {k: v for k, v in options.items() if k in mine}
    parallel = {k: v for k, v in options.items() if k not in mine}
    return parallel, for_contender


@contextmanager
def _parallel(library, tasks, block, **options):
    """Yield a function that makes one call.

    Parameters
    ----------
    library : module
        cypar or joblib.
    tasks : callable
        ``tasks(delayed)`` returns the generator, with `delayed` written in it as
        everybody does.
    block : bool
        Make the calls in one with-block, else a new Parallel for each one.
    """
    make, delayed = library.Parallel, library.delayed
    with ExitStack() as stack:
        if library is joblib:
            stack.callback(end_loky)
        if block:
            parallel = stack.enter_context(make(**options))
            yield lambda: parallel(tasks(delayed))
        else:
            yield lambda: make(**options)(tasks(delayed))


def end_loky():
    """End the worker processes that joblib would keep for minutes."""
    loky.get_reusable_executor(N_JOBS).shutdown(wait=True, kill_workers=True)


# ---- pools with a map method ---------------------------------------------------------


def open_cf_threads():
    return ThreadPoolExecutor(N_JOBS)


def open_mp_threads():
    return multiprocessing.pool.ThreadPool(N_JOBS)


def open_cf_processes():
    context = multiprocessing.get_context(START_METHOD)
    return ProcessPoolExecutor(N_JOBS, mp_context=context)


def open_mp_pool():
    return multiprocessing.get_context(START_METHOD).Pool(N_JOBS)


def open_loky():
    # Not its reusable executor, which joblib takes for its own.
    return loky.ProcessPoolExecutor(N_JOBS)


OPEN = {
    "cf.ThreadPool": open_cf_threads,
    "mp.ThreadPool": open_mp_threads,
    "cf.ProcessPool": open_cf_processes,
    "mp.Pool": open_mp_pool,
    "loky.map": open_loky,
}


def mapped(kind, function, inputs, *, chunksize=1, name=None, block=True, **options):
    """Return a pool's ``map`` as a contender.

    Parameters
    ----------
    kind : key of OPEN
    function, inputs : what to map; `inputs` is a sequence
    chunksize : int or tuple of int
        The best one of several is found before the first round: tuned by hand.
    block : bool
        Keep one pool for all calls, else open and close one for each.
    """
    contender = Contender(
        name or (f"{kind} tuned" if isinstance(chunksize, Iterable) else kind),
        "peer",
        lambda: _open_map(contender, kind, function, inputs, chunksize, block),
        forks=kind in ("cf.ProcessPool", "mp.Pool") and START_METHOD == "fork",
        **{"n": len(inputs), **options},
    )
    return contender


@contextmanager
def _open_map(contender, kind, function, inputs, chunksize, block):
    if not block:

        def one_pool_per_call():
            with OPEN[kind]() as pool:
                return list(pool.map(function, inputs, chunksize=chunksize))

        yield one_pool_per_call
        return

    with OPEN[kind]() as pool:

        def run(size):
            return list(pool.map(function, inputs, chunksize=size))

        size = chunksize
        if isinstance(chunksize, Iterable):
            size = fastest(run, chunksize)
            contender.note = f"chunksize={size}"
        yield lambda: run(size)


def chunked_threads(run_chunk, n, n_chunks):
    """Return ``ThreadPoolExecutor.map`` over chunks made by hand.

    Parameters
    ----------
    run_chunk : callable
        ``run_chunk(range)`` does a range of the `n` tasks in a plain loop and returns
        the list of results.
    n_chunks : tuple of int
        Numbers of chunks to try; the fastest is taken.
    """

    @contextmanager
    def open_chunks():
        with ThreadPoolExecutor(N_JOBS) as pool:

            def run(number):
                step = -(-n // number)
                ranges = [range(i, min(i + step, n)) for i in range(0, n, step)]
                return [x for part in pool.map(run_chunk, ranges) for x in part]

            number = fastest(run, n_chunks)
            contender.note = f"{number} chunks"
            yield lambda: run(number)

    contender = Contender("cf.ThreadPool chunks", "peer", open_chunks, n=n)
    return contender


def fastest(run, sizes):
    """Return the size with which ``run(size)`` takes the least time, best of two."""
    run(sizes[0])  # starts the workers
    return min(sizes, key=lambda size: min(seconds_of(run, size) for _ in range(2)))
