"""What the rows about large data send: an importable module, as tasks need one."""

from __future__ import annotations

import random

MB = 1_000_000


def sum_part(array, part, n_parts):
    """Add up one of `n_parts` equal parts."""
    n = len(array)
    return float(array[part * n // n_parts : (part + 1) * n // n_parts].sum())


def sum_all(array):
    return float(array.sum())


def make_result(i, nbytes):
    """Return a new array with all its pages written."""
    import numpy as np

    return np.full(nbytes // 8, float(i))


def sum_rows(frame, part, n_parts):
    n = len(frame)
    rows = slice(part * n // n_parts, (part + 1) * n // n_parts)
    return float(frame.iloc[rows, 0].sum())


def last_byte(data, i):
    return data[-1 - i]


def look_up(table, key):
    return table[key]


class Workload:
    """One call: `make()` returns the data, `tasks(delayed, data)` the generator.

    `nbytes` is how much travels; `result` is what `check` compares with.
    """

    def __init__(self, megabytes):
        self.nbytes = int(megabytes * MB)

    def make(self, seed):
        raise NotImplementedError

    def tasks(self, delayed, data):
        raise NotImplementedError

    def check(self, data, results):
        raise NotImplementedError


class OneArray(Workload):
    """One array to 16 tasks, each of which adds up a part."""

    n_tasks = 16

    def make(self, seed):
        import numpy as np

        return np.random.default_rng(seed).random(self.nbytes // 8)

    def tasks(self, delayed, data):
        n = self.n_tasks
        return (delayed(sum_part)(data, i, n) for i in range(n))

    def check(self, data, results):
        return abs(sum(results) - float(data.sum())) < 1e-6 * data.size


class ManyArrays(Workload):
    """Forty arrays, the largest ten times the smallest, each to one task."""

    n_tasks = 40

    def make(self, seed):
        import numpy as np

        numbers = random.Random(5)  # the same sizes for every seed
        weights = [numbers.uniform(1, 10) for _ in range(self.n_tasks)]
        unit = self.nbytes / sum(weights) / 8
        return [np.full(int(w * unit), seed + float(i)) for i, w in enumerate(weights)]

    def tasks(self, delayed, data):
        return (delayed(sum_all)(array) for array in data)

    def check(self, data, results):
        pairs = zip(data, results, strict=True)
        return all(abs(r - a[0] * a.size) <= 1e-9 * abs(r) for a, r in pairs)


class Results(Workload):
    """Sixteen large results."""

    n_tasks = 16

    def make(self, seed):
        return self.nbytes // self.n_tasks

    def tasks(self, delayed, data):
        return (delayed(make_result)(i, data) for i in range(self.n_tasks))

    def check(self, data, results):
        return all(r[0] == r[-1] == i for i, r in enumerate(results))


class Frame(Workload):
    """A DataFrame of ten columns to eight tasks."""

    n_tasks = 8

    def make(self, seed):
        import numpy as np
        import pandas as pd

        values = np.random.default_rng(seed).random((self.nbytes // 80, 10))
        return pd.DataFrame(values, columns=[f"x{i}" for i in range(10)])

    def tasks(self, delayed, data):
        n = self.n_tasks
        return (delayed(sum_rows)(data, i, n) for i in range(n))

    def check(self, data, results):
        return abs(sum(results) - float(data["x0"].sum())) < 1e-6 * len(data)


class Bytes(Workload):
    """One string of bytes to eight tasks."""

    n_tasks = 8

    def make(self, seed):
        return random.Random(seed).randbytes(1000) * (self.nbytes // 1000)

    def tasks(self, delayed, data):
        return (delayed(last_byte)(data, i) for i in range(self.n_tasks))

    def check(self, data, results):
        return results == [data[-1 - i] for i in range(self.n_tasks)]


class Dict(Workload):
    """A dict to forty tasks; one megabyte stands for 20,000 keys."""

    n_tasks = 40

    def make(self, seed):
        n = self.nbytes // 50
        return {f"key {i}": (i + seed, float(i)) for i in range(n)}

    def tasks(self, delayed, data):
        keys = list(data)[: self.n_tasks]
        return (delayed(look_up)(data, key) for key in keys)

    def check(self, data, results):
        return results == [data[key] for key in list(data)[: self.n_tasks]]


WORKLOADS = {
    "array": OneArray,
    "arrays": ManyArrays,
    "results": Results,
    "frame": Frame,
    "bytes": Bytes,
    "dict": Dict,
}
