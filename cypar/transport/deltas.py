"""Large pickles that differ little from one before: only the difference is sent.

A task that gets the same large dict as the one before has a pickle that is equal but
for its other arguments. It is sent as a `Patch`: how many bytes to take from the
beginning and the end of other bytes, which the worker has, and what stands between.
The worker puts the pickle together again and loads it, so every task still has objects
of its own.

Thread safety: one `Deltas` belongs to the thread that draws for one call.
"""

from __future__ import annotations

from cypar.core._copying import common_ends
from cypar.transport.pieces import PATCH

MIN_BYTES = 64 << 10  # of a pickle that is looked at
MIN_SAVING = 0.75  # of its bytes
MAX_BASES = 4  # in memory, here and in each worker


class Base:
    """Bytes that patches are made on."""

    __slots__ = ("data",)

    def __init__(self, data):
        self.data = data


class Patch:
    """One pickle as a difference to a base."""

    __slots__ = ("base", "middle", "prefix", "suffix")

    def __init__(self, base, prefix, suffix, middle):
        self.base = base
        self.prefix = prefix
        self.suffix = suffix
        self.middle = middle

    def __len__(self):
        return PATCH.size + len(self.middle)


class Deltas:
    """Finds what large pickles have in common.

    Examples
    --------
    >>> deltas = Deltas()
    >>> data = b"x" * MIN_BYTES
    >>> deltas.encode(data) is data  # nothing to compare with
    True
    >>> patch = deltas.encode(data + b"y")
    >>> restore(patch.base.data, patch.prefix, patch.suffix, patch.middle) == data + b"y"
    True
    """

    def __init__(self):
        self.bases = []  # the most recently used last

    def encode(self, data):
        """Return a `Patch`, or the bytes themselves if nothing like them came before."""
        for base in reversed(self.bases):
            prefix, suffix = common_ends(base.data, data)
            if prefix + suffix >= MIN_SAVING * len(data):
                self.bases.remove(base)
                self.bases.append(base)
                return Patch(
                    base, prefix, suffix, data[prefix : len(data) - suffix]
                )
        self.bases.append(Base(data))
        if len(self.bases) > MAX_BASES:
            del self.bases[0]
        return data


def restore(base, prefix, suffix, middle):
    """Return the bytes that a patch stands for."""
    view = memoryview(base)
    return b"".join((view[:prefix], middle, view[len(view) - suffix :]))
