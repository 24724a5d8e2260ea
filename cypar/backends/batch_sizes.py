"""How many tasks the batches of one call have: by their time and by their bytes."""

from __future__ import annotations

from cypar.core._status_page import MAX_BATCH

MAX_RESULT_BYTES = 1 << 21  # of one batch: what nobody has read yet is bounded


class BatchSizes:
    """Learns from the batches of one call how large the next ones should be.

    Parameters
    ----------
    call : Call
    estimator : BatchEstimator
    max_batch_bytes : int
        Batches do not grow beyond this.

    Attributes
    ----------
    size : int
        Tasks in the next batch.
    """

    def __init__(self, call, estimator, max_batch_bytes):
        self.call = call
        self.estimator = estimator
        self.max_batch_bytes = max_batch_bytes
        self.is_fixed = call.options.batch_size > 0
        self.size = min(max(1, call.options.batch_size), MAX_BATCH)
        self.task_bytes = 1.0  # smoothed size of one pickled task
        self.result_bytes = 1.0  # the same of the results that the log did not take

    @property
    def task_seconds(self):
        """Smoothed time of one task; 0.0 if none has been seen."""
        return self.estimator.task_seconds

    def note_tasks(self, size, n_tasks):
        """Learn how many bytes tasks have when they are sent."""
        self.task_bytes = _smoothed(self.task_bytes, size / n_tasks)

    def note_result(self, size):
        """Learn how many bytes results have that do not fit into the log."""
        self.result_bytes = _smoothed(self.result_bytes, size)

    def observe(self, batch):
        """Learn from a finished batch."""
        if self.is_fixed or not batch.n:
            return
        size = self.estimator.observe(batch.n, batch.seconds)
        size = min(size, max(1, int(self.max_batch_bytes / self.task_bytes)))
        size = min(size, max(1, int(MAX_RESULT_BYTES / self.result_bytes)))
        if size != self.size and not self.call.wants_single_tasks():
            self.size = size
            self.call.source.set_batch_size(size)


def _smoothed(old, new):
    """Follow a growth at once and a decrease slowly."""
    return max(new, 0.5 * (old + new))
