"""Streams: inputs from a generator, results to a generator.

P10  10k inputs of 10 kB through processes, return_as='generator'
"""

from contextlib import contextmanager

import joblib
from contenders import OPEN, end_loky
from harness import MICROSECONDS, N_JOBS, Contender, Row, at_most, settings
from limits import socket_message
from workloads import Stream
from workloads import measure as length

import cypar

SIZE = 10_000  # bytes of one input
CHUNKSIZE = 50  # of the pools: 0.5 MB at once


def bench_p10_streamed_inputs(measure):
    """Time per input; `max_lead` is how many inputs were drawn ahead of the reader."""
    n = settings.size(10_000)
    row = Row(
        "P10",
        "10k streamed inputs of 10 kB, return_as='generator'",
        MICROSECONDS,
        [
            streamed("cypar", "cypar", n, lambda: by_parallel(cypar)),
            streamed("joblib-loky", "joblib", n, lambda: by_parallel(joblib)),
            streamed("mp.Pool imap", "peer", n, lambda: by_pool("mp.Pool", "imap")),
            streamed(
                "cf.ProcessPool", "peer", n, lambda: by_pool("cf.ProcessPool", "map")
            ),
            streamed("loky.map", "peer", n, lambda: by_pool("loky.map", "map")),
            socket_message(n, SIZE, name="socket, 10 kB messages"),
        ],
        must=[at_most(0.5, of="joblib")],
        aim=[at_most(2.0, of="socket, 10 kB messages")],
        budget_s=25,
    )
    measure(row)


def streamed(name, role, n, open_results):
    """Return a contender that reads all results of one stream.

    Parameters
    ----------
    open_results : callable
        Returns a context manager that gives a function from inputs to results.
    """

    @contextmanager
    def open_stream():
        with open_results() as results:

            def run():
                stream = Stream(n, SIZE)
                return stream.consume(results(stream))

            yield run

    return Contender(
        name,
        role,
        open_stream,
        n=n,
        judge=lambda lead, seconds: {"max_lead": lead},
        forks=name in ("mp.Pool imap", "cf.ProcessPool"),
    )


@contextmanager
def by_parallel(library):
    delayed = library.delayed
    with library.Parallel(n_jobs=N_JOBS, return_as="generator") as parallel:
        yield lambda inputs: parallel(delayed(length)(data) for data in inputs)
    if library is joblib:
        end_loky()


@contextmanager
def by_pool(kind, method):
    with OPEN[kind]() as pool:
        results = getattr(pool, method)
        yield lambda inputs: results(length, inputs, chunksize=CHUNKSIZE)
