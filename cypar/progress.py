"""The lines that ``verbose`` prints.

    [Parallel(n_jobs=2)]: Using backend ThreadingBackend with 2 concurrent workers.
    [Parallel(n_jobs=2)]: Done   1 tasks      | elapsed:    0.6s
    [Parallel(n_jobs=2)]: Done   7 out of  10 | elapsed:    1.1s remaining:    0.5s
    [Parallel(n_jobs=2)]: Done  10 out of  10 | elapsed:    1.4s finished

A call tells its progress to one object with three methods: ``started``, ``completed``
after each task, and ``finished`` after success. `ProgressPrinter` is such an object; a
bar or a user's function can be another one, and none of them sees the call.

Thread safety: one call, one lock. A call reports from any thread, one at a time.
"""

from __future__ import annotations

import sys
import time

TYPE_CHECKING = False  # `typing` is slow to import; type checkers know this name
if TYPE_CHECKING:
    from collections.abc import Callable

STDOUT_FROM = 50  # verbose at and above which lines go to stdout instead of stderr
EVERY_TASK_ABOVE = 10  # verbose above which no task is left out
UNKNOWN_LENGTH_WIDTH = 3  # columns for a count when the length is not known


class ProgressPrinter:
    """Print now and then how far a call has come.

    Parameters
    ----------
    label : str
        Stands in brackets before each line, such as ``'Parallel(n_jobs=2)'``.
    verbose : int or float
        Greater than 0: the higher, the more lines.
    length : int, optional
        ``len()`` of the input, if it has one.
    clock : callable, optional
        Returns seconds; the time of construction is where ``elapsed`` starts.
    """

    def __init__(
        self,
        label: str,
        verbose: float,
        length: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label = label
        self.verbose = verbose
        self.length = length
        self.width = len(str(length)) if length else UNKNOWN_LENGTH_WIDTH
        self.clock = clock
        self.start_s = clock()
        self.last_step: int | None = None  # of `_step`, at the last line printed
        self.can_write = True

    def started(self, backend_name: str, n_workers: int) -> None:
        """Print what the call runs on; not called for a serial loop."""
        self._write(
            f"Using backend {backend_name} with {n_workers} concurrent workers."
        )

    def completed(
        self,
        n_finished: int,
        n_dispatched: int,
        total: int | None = None,
        pre_dispatch_tasks: int = 0,
    ) -> None:
        """Print a line if one is due after this task.

        Parameters
        ----------
        n_finished : int
            Tasks that have an outcome, this one included.
        n_dispatched : int
            Tasks drawn from the input so far.
        total : int or None
            Tasks in all, once the input is known to be at its end; None before.
        pre_dispatch_tasks : int, default=0
            Tasks drawn ahead; 0 if all were. The countdown after the end of the input
            starts there.
        """
        if total is None:
            if self._is_due(n_dispatched):
                self._write_count(n_finished)
        elif self._is_due_at_end(n_finished, total, pre_dispatch_tasks):
            elapsed_s = self.clock() - self.start_s
            remaining_s = elapsed_s / max(n_finished, 1) * (total - n_finished)
            self._write_share(
                n_finished,
                total,
                elapsed_s,
                f" remaining: {format_seconds(remaining_s)}",
            )

    def finished(self, n_finished: int) -> None:
        """Print the last line, after success."""
        elapsed_s = self.clock() - self.start_s
        self._write_share(n_finished, n_finished, elapsed_s, " finished")

    # ---- which tasks print --------------------------------------------------------

    def _is_due(self, n_dispatched: int) -> bool:
        """Tell whether the next task drawn begins a new step.

        Step k ends near task k**2 * scale, so lines come further and further apart.
        Steps are counted from the last line, since n_dispatched may jump or stand
        still where tasks travel in batches.
        """
        if self.verbose > EVERY_TASK_ABOVE:
            return True
        if self.last_step is None:
            self.last_step = self._step(n_dispatched) if n_dispatched else -1
        step = self._step(n_dispatched + 1)
        if step <= self.last_step:
            return False
        self.last_step = step
        return True

    def _step(self, n_tasks: int) -> int:
        scale = 0.5 * (11 - self.verbose) ** 2
        return int((n_tasks / scale) ** 0.5)

    def _is_due_at_end(self, n_finished: int, total: int, ahead: int) -> bool:
        """Tell whether to print while the drawn rest is worked off.

        Every k-th task does, counted so that the first one after the end of the input
        does; the last but one never does, since the end is near enough.
        """
        if n_finished + 1 == total:
            return False
        if self.verbose > EVERY_TASK_ABOVE:
            return True
        every = int(total // self.verbose) + 1
        return (total - n_finished + 1 - ahead) % every == 0

    # ---- how lines look -----------------------------------------------------------

    def _write_count(self, n_finished: int) -> None:
        elapsed_s = self.clock() - self.start_s
        if self.length is not None:
            self._write_share(n_finished, self.length, elapsed_s, "")
            return
        share_length = len("out of ") + self.width
        self._write(
            f"Done {n_finished:{self.width}d} {'tasks':<{share_length}} "
            f"| elapsed: {format_seconds(elapsed_s)}"
        )

    def _write_share(
        self, n_finished: int, total: int, elapsed_s: float, end: str
    ) -> None:
        width = self.width
        self._write(
            f"Done {n_finished:{width}d} out of {total:{width}d} "
            f"| elapsed: {format_seconds(elapsed_s)}{end}"
        )

    def _write(self, text: str) -> None:
        # Looked up each time: notebooks and tests replace the streams. There are none
        # under pythonw.
        stream = sys.stdout if self.verbose >= STDOUT_FROM else sys.stderr
        if stream is None or not self.can_write:
            return
        try:
            stream.write(f"[{self.label}]: {text}\n")
        except (OSError, ValueError):
            # A closed pipe or stream: a progress line must not fail the computation.
            self.can_write = False


def format_seconds(seconds: float) -> str:
    """Return a duration in seven columns: ``'  42.0s'``, or ``' 1.2min'`` above 60."""
    if seconds > 60:
        return f"{seconds / 60:4.1f}min"
    return f" {seconds:5.1f}s"
