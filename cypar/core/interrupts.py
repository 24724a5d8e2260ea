"""Put off Ctrl-C for a few steps that belong together.

Thread safety: masks are of one thread each. A signal that another thread of the program
takes is not put off.
"""

from __future__ import annotations

import _signal

_has_masks = hasattr(_signal, "pthread_sigmask")  # not on Windows


class held_interrupts:
    """Let a Ctrl-C wait until the with-block ends, where it is raised.

    Examples
    --------
    >>> with held_interrupts():
    ...     pass
    """

    __slots__ = ("before",)

    def __enter__(self) -> None:
        if _has_masks:
            self.before = _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGINT])

    def __exit__(self, *_: object) -> None:
        if _has_masks:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, self.before)
