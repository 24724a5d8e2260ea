"""The tasks that all contenders run, and what they are run on.

An importable module, so that every library sends these functions by reference.
"""

import hashlib
import os
import random
import time


def echo(x):
    """Do nothing: what is measured is the library."""
    return x


def measure(data):
    """Return the length of one streamed input."""
    return len(data)


def die(_):
    """End the worker at once, as a segmentation fault would."""
    os._exit(3)


# ---- pure Python ---------------------------------------------------------------------


def spin(loops):
    """Keep one core busy, holding the GIL."""
    x = 1
    for _ in range(loops):
        x = x * 1103515245 + 12345 & 0x7FFFFFFF
    return x


def spin_timed(loops):
    """Spin and return the CPU seconds that it took.

    CPU time, unlike wall time, does not grow when a worker has to share its core with
    the library: that belongs to the makespan, not to the task's length.
    """
    start = time.thread_time()
    spin(loops)
    return time.thread_time() - start


def spin_loops_per_second():
    """Return how fast `spin` is here (best of 7)."""
    loops = 50_000
    return loops / min(seconds_of(spin, loops) for _ in range(7))


def lognormal_loops(n, mean_s, sigma=1.0):
    """Return the loops of `n` tasks of lognormal length; the same ones every time."""
    lengths = random.Random(2)
    drawn = [lengths.lognormvariate(0.0, sigma) for _ in range(n)]
    scale = mean_s * n / sum(drawn) * spin_loops_per_second()
    return [max(1, int(length * scale)) for length in drawn]


def shared_queue_makespan(lengths, n_workers):
    """Return when the last task ends if a free worker always takes the next one.

    >>> shared_queue_makespan([3, 1, 1, 4], n_workers=2)
    6
    """
    free_at = [0] * n_workers
    for length in lengths:
        worker = min(range(n_workers), key=free_at.__getitem__)
        free_at[worker] += length
    return max(free_at)


# ---- outside the GIL -----------------------------------------------------------------

DATA = bytes(1 << 24)  # zero pages: they cost nothing until they are read


def digest(size):
    """Hash `size` bytes; hashlib gives the GIL away above 2047 bytes."""
    return hashlib.sha256(memoryview(DATA)[:size]).digest()


def digest_bytes_per_second():
    """Return how fast `digest` is here (best of 20)."""
    size = 1 << 16
    return size / min(seconds_of(digest, size) for _ in range(20))


def digest_size(seconds):
    """Return the size for which `digest` takes that long."""
    return max(2048, min(len(DATA), int(seconds * digest_bytes_per_second())))


def power_law_sizes(n, shortest_s, longest_s, exponent=1.1):
    """Return sizes for `digest` whose times follow a power law; always the same.

    The longest task is far below half of the sum, so that the ideal on two cores is
    half of the sum.
    """
    digest(len(DATA))  # its pages are there now
    speed = digest_bytes_per_second()
    numbers = random.Random(4)
    times = (shortest_s * numbers.paretovariate(exponent) for _ in range(n))
    return [max(2048, min(len(DATA), int(min(t, longest_s) * speed))) for t in times]


def ufunc_arrays(numpy, seconds, n_out=2):
    """Return an input and `n_out` outputs for which `numpy.sqrt` takes that long."""
    size = 4096
    x, out = numpy.full(size, 2.0), numpy.empty(size)
    # Many calls at once: one is too short for the clock.
    calls = range(2000)
    taken = min(
        seconds_of(lambda: [numpy.sqrt(x, out) for _ in calls]) for _ in range(5)
    )
    size = max(64, int(size * seconds * len(calls) / taken))
    return numpy.full(size, 2.0), [numpy.empty(size) for _ in range(n_out)]


# ---- streams -------------------------------------------------------------------------


class Stream:
    """Yield `n` different inputs of `size` bytes, and count what was drawn ahead."""

    def __init__(self, n, size):
        self.n = n
        self.size = size
        self.drawn = 0
        self.source = random.Random(7).randbytes(2 * size)

    def __iter__(self):
        for i in range(self.n):
            self.drawn += 1
            start = i % self.size
            yield self.source[start : start + self.size]

    def consume(self, results):
        """Read all results; return how far the inputs were ahead at most."""
        read = lead = 0
        for _ in results:
            lead = max(lead, self.drawn - read)
            read += 1
        if read != self.n:
            raise RuntimeError(f"{self.n} inputs, but {read} results")
        return lead


def seconds_of(function, *args):
    """Return the wall seconds of one call."""
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start
