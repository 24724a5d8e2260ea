"""What the random programs run: tasks that note what happens to them.

A task notes its start and its end in a file, one line each, so that the checker can
count how often it ran, whatever process ran it and however that ended. Workers import
this module by its name.
"""

import os
import time
import zlib

import numpy as np
from faults import happen
from notes import write_line

from cypar import Parallel, delayed

# What earlier tasks of this process still hold: [payload, fingerprint]; nobody may
# write to memory that they see.
kept = []
MAX_KEPT = 2


class Thing:
    """A user's object."""

    def __init__(self, index, data):
        self.index = index
        self.data = data

    def __eq__(self, other):
        return fingerprint(self) == fingerprint(other)

    __hash__ = None


class Job:
    """What the tasks of one call have in common.

    Attributes
    ----------
    folder : str
        Where notes go.
    call : int
        Number of the call in its program.
    faults : dict
        Index of the task -> what happens in it.
    """

    def __init__(self, folder, call, program, faults):
        self.folder = folder
        self.call = call
        self.result = program.result
        self.work_s = program.work_us * 1e-6
        self.nested = program.nested
        self.writes = program.writes
        self.keeps = program.keeps
        self.faults = faults

    def run(self, index, payload):
        """Run one task; the value that the call should return for it."""
        self.note("started", index)
        fault = self.faults.get(index)
        if fault is not None and not fault.late:
            happen(self, index, fault)
        value = compute(self, index, payload)
        if fault is not None and fault.late:
            value = happen(self, index, fault) or value
        self.note("finished", index)
        return value

    def note(self, what, index):
        """Add one line to the file of notes; lines never mix."""
        line = f"{what} {self.call} {index} {os.getpid()} {time.monotonic():.4f}\n"
        write_line(os.path.join(self.folder, "notes"), line)


def run(job, index, payload):
    """Do the same as a function of a module."""
    return job.run(index, payload)


# ---- the value of a task ---------------------------------------------------------


def compute(job, index, payload):
    """Return the value of task ``index``; it depends on every byte of the payload."""
    check_kept()
    if job.work_s:
        time.sleep(job.work_s)
    value = value_of(job.result, index, payload)
    if job.nested is not None:
        value = (value, nested_sum(job.nested, index))
    if job.writes:
        scribble(payload)
    elif job.keeps:
        kept.append((payload, fingerprint(payload)))
        del kept[:-MAX_KEPT]
    return value


def expected_value(job, index, payload):
    """Return what `compute` should, computed without any parallel code."""
    value = value_of(job.result, index, payload)
    if job.nested is not None:
        value = (value, sum(index * j for j in range(4)))
    return value


def check_kept():
    for payload, mark in kept:
        if fingerprint(payload) != mark:
            raise AssertionError(
                "memory that a task still refers to was written by somebody else"
            )


def value_of(kind, index, payload):
    mark = fingerprint(payload)
    if kind == "number":
        return zlib.crc32(repr((index, mark)).encode())
    if kind == "text":
        return f"{index}:{mark}"
    if kind == "array":
        return np.arange(5000) + zlib.crc32(repr(mark).encode()) + index
    if kind == "large array":
        return np.arange(200_000) + zlib.crc32(repr(mark).encode()) + index
    if kind == "object":
        return Thing(index, [mark, {"index": index}])
    if kind == "payload":
        return payload
    raise ValueError(f"unknown kind of result {kind!r}")


def nested_sum(backend, index):
    """Return what a Parallel inside of the task computes."""
    inner = Parallel(n_jobs=2, backend=None if backend == "default" else backend)
    return sum(inner(delayed(multiply)(index, j) for j in range(4)))


def multiply(a, b):
    return a * b


def scribble(payload):
    """Change the payload, which is this task's own."""
    if isinstance(payload, np.ndarray):
        payload[...] = 0
    elif isinstance(payload, Thing):
        payload.data.append("scribbled")
    elif isinstance(payload, dict):
        payload.clear()


def fingerprint(value):
    """Return something small that tells one value from another."""
    if isinstance(value, np.ndarray):
        data = np.ascontiguousarray(value)
        return ("array", data.dtype.str, value.shape, zlib.crc32(data.view(np.uint8)))
    if isinstance(value, (bytes, bytearray)):
        return (type(value).__name__, len(value), zlib.crc32(value))
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, *map(fingerprint, value))
    if isinstance(value, dict):
        return ("dict", *((key, fingerprint(item)) for key, item in value.items()))
    if isinstance(value, Thing):
        return ("Thing", value.index, fingerprint(value.data))
    return (type(value).__name__, repr(value))
