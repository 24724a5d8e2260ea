"""One batch of tasks that was sent to a worker."""

from __future__ import annotations


class Batch:
    """What the parent remembers of a batch until its last task is done.

    Attributes
    ----------
    tasks : list
        (index, captured task) by position; None once the task is done or taken back.
    left : int
        Tasks that are neither done nor taken back.
    n : int
    seconds : float
        Time its finished tasks ran.
    """

    __slots__ = ("left", "n", "seconds", "tasks")

    def __init__(self, tasks):
        self.tasks = tasks
        self.n = self.left = len(tasks)
        self.seconds = 0.0

    def take(self, first, end):
        """Take back the tasks at positions ``first`` to ``end``."""
        taken = self.tasks[first:end]
        self.tasks[first:end] = [None] * (end - first)
        self.left -= end - first
        self.n -= end - first
        return taken
