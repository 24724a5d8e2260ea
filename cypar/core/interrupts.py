"""Ctrl-C: put it off for a few steps that belong together, and tell it from others.

Thread safety: masks are of one thread each. A signal that another thread of the program
takes is not put off.
"""

from __future__ import annotations

import _signal
import threading

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


def ignore_ctrl_c(signum: int, frame: object) -> None:
    """The handler of SIGINT in workers: the parent acts on Ctrl-C."""


def is_ctrl_c(exc: BaseException) -> bool:
    """Whether an exception is the user's Ctrl-C, which even a catch-all lets pass.

    In other threads, and in workers, a KeyboardInterrupt can only be what a task or an
    object of the user's has raised.

    Examples
    --------
    >>> is_ctrl_c(ValueError())
    False
    """
    return (
        isinstance(exc, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        and _raises(_signal.getsignal(_signal.SIGINT))
    )


def _raises(handler: object) -> bool:
    return callable(handler) and handler is not ignore_ctrl_c
