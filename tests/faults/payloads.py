"""The arguments of tasks, which anybody can make again from numbers alone."""

import numpy as np
from tasks import Thing

TOUCHED_EVERY = 4  # tasks
ROW = 512  # elements of 8 bytes in 4 KiB


class Payloads:
    """The payloads of one call.

    Parameters
    ----------
    program : Program
    call : int
    """

    def __init__(self, program, call):
        self.kind = program.payload
        self.size = program.size
        self.call = call
        self._make = getattr(self, f"_make_{self.kind}")

    def fresh(self, index):
        """Return what task ``index`` should get, made for this purpose."""
        return self._make(index)

    def given(self, n):
        """Yield the ``n`` payloads as a program would: with one object for many."""
        if self.kind == "same":
            same = self._make(0)
            for _ in range(n):
                yield same
        elif self.kind == "refilled":
            # the next task's content replaces this one's as soon as this one is drawn
            buffer = self._make(0)
            for index in range(n):
                self._refill(buffer, index)
                yield buffer
        elif self.kind == "touched":
            # long enough unchanged for a copy to be watched instead of compared
            array = self._make(0)
            for index in range(n):
                if index and index % TOUCHED_EVERY == 0:
                    self._touch(array, index)
                yield array
        else:
            for index in range(n):
                yield self._make(index)

    def _refill(self, buffer, index):
        if isinstance(buffer, dict):
            buffer.update(self._make_refilled(index))
        else:
            buffer[...] = self._make_refilled(index)

    def _touch(self, array, index):
        """Change 4 KiB in a row: as little as is always seen."""
        start = index * 99_991 % max(1, len(array) - ROW)
        array[start : start + ROW] += 1

    # ---- kinds -------------------------------------------------------------------

    def _make_index(self, index):
        return index

    def _make_bytes(self, index):
        return self._make_array(index).tobytes()

    def _make_array(self, index):
        dtype = ("u1", "i8", "f4", "f8")[index % 4]
        n = self.size // np.dtype(dtype).itemsize
        return (np.arange(n) * 7 + index * 13 + self.call).astype(dtype)

    def _make_view(self, index):
        n = self.size // 8
        if index % 2:
            return np.arange(2 * n)[::2] + index  # contiguous after all
        return (np.arange(3 * n) + index * 17 + self.call)[::3]

    def _make_same(self, index):
        return np.arange(self.size // 8) * 3.0 + self.call

    def _make_refilled(self, index):
        if self.call % 2:
            return {"index": index, "data": bytes([index % 256]) * self.size}
        return np.arange(self.size // 8) * (index + 1) + self.call

    def _make_touched(self, index):
        array = np.arange(self.size // 8) * 5.0 + self.call
        for touched in range(TOUCHED_EVERY, index + 1, TOUCHED_EVERY):
            self._touch(array, touched)
        return array

    def _make_dict(self, index):
        return {"index": index, "array": self._make_array(index), "none": None}

    def _make_object(self, index):
        return Thing(index, [self._make_array(index), f"{index}", {"call": self.call}])
