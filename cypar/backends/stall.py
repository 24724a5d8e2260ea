"""Turn a hang of cypar's own into an error that says where it hangs.

A call is *stalled* while tasks are open, no worker runs one, and none is drawn. That
happens for moments all the time; if it lasts, a wake-up or a task was lost. A task may
run for days: then its worker is busy, and nothing is stalled.
"""

from __future__ import annotations

import sys
import threading
import time

from cypar.core.errors import NoProgressError

LIMIT_S = 30.0  # a call that has stalled for this long never goes on
CHECK_S = 5.0  # between two looks


class StallWatch:
    """Adds up for how long a call has been stalled.

    Parameters
    ----------
    clock : callable, optional
        Returns seconds.
    """

    def __init__(self, clock=time.monotonic):
        self.clock = clock
        self.limit_s = LIMIT_S
        self.check_s = CHECK_S
        self.stalled_s = 0.0
        self._seen_s = clock()
        self._progress = None

    def is_over_limit(self, stalled, progress):
        """Look once; whether the call has been stalled for too long.

        Parameters
        ----------
        stalled : bool
        progress : object
            Differs from that of the last look if anything has happened since.
        """
        now_s = self.clock()
        # Not more than two checks: this process itself may have been stopped.
        passed_s = min(now_s - self._seen_s, 2 * self.check_s)
        self._seen_s = now_s
        if not stalled or progress != self._progress:
            self._progress = progress
            self.stalled_s = 0.0
            return False
        self.stalled_s += passed_s
        return self.stalled_s >= self.limit_s


def progress_of(call):
    """Return what changes whenever a call goes on."""
    return call.source.drawn, call.outcomes.finished, call.outcomes.delivered


def no_progress(call, limit_s, workers=()):
    """Return the error of a call that has stalled.

    Parameters
    ----------
    call : Call
    limit_s : float
    workers : iterable of str
        The state of each.
    """
    source, outcomes = call.source, call.outcomes
    lines = [
        f"no task has begun or ended for {limit_s:g} s, although {source.drawn} were "
        f"drawn and only {outcomes.finished} have ended, and no worker runs one: this "
        "is an error in cypar. Please report it with the text below; the finished "
        "results are in this exception's `completed`",
        f"call: pending {source.pending}, window {source.window}, input ended "
        f"{source.ended}, results read {outcomes.delivered}",
        *workers,
        *_stacks(),
    ]
    return NoProgressError("\n".join(lines))


def _stacks():
    """Return the stacks of all threads of this process, one text for each."""
    import traceback  # slow to import, needed only here

    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return [
        f"thread {names.get(ident, ident)}:\n"
        + "".join(traceback.format_stack(frame)).rstrip()
        for ident, frame in sys._current_frames().items()
    ]
