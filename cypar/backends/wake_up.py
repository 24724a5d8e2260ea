"""A descriptor that ends the `poll` of a call's loop from any thread."""

from __future__ import annotations

import os
import sys
import threading

from cypar.core._status_page import above_standard

_ONE = (1).to_bytes(8, sys.byteorder)  # what an eventfd takes
_PIPE_BYTES = 4096


class WakeUp:
    """An eventfd, or a pipe where there is none.

    Who rings may come late, when the loop is over: nothing may be written then, since
    the descriptor's number can be another file's by now.

    Attributes
    ----------
    fd : int
        What the loop polls for input; -1 once closed.
    """

    fd = _write_fd = -1

    def __init__(self):
        self._lock = threading.RLock()  # a signal handler may ring, too
        self.fd, self._write_fd = _open()

    def ring(self):
        """End the current `poll`, or else the next one; never blocks."""
        with self._lock:
            if self._write_fd >= 0:
                try:
                    os.write(self._write_fd, _ONE)
                except BlockingIOError:
                    pass  # it is full of wake-ups already

    def clear(self):
        """Forget what was rung; the loop's own thread, when `fd` has input."""
        os.read(self.fd, _PIPE_BYTES)

    def close(self):
        """Close the descriptors; to ring has no effect from now on."""
        with self._lock:
            fds = {self.fd, self._write_fd} - {-1}
            self.fd = self._write_fd = -1  # first: a signal handler may ring
            for fd in fds:
                os.close(fd)

    def __del__(self):
        # Ctrl-C came before the call began; nobody rings any more
        for fd in {self.fd, self._write_fd} - {-1}:
            os.close(fd)

    def drop(self):
        """Close them in a forked child, whose parent may have held the lock."""
        self._lock = threading.RLock()
        self.close()


def _open():
    if hasattr(os, "eventfd"):
        fd = above_standard(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        return fd, fd
    read, write = map(above_standard, os.pipe())
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return read, write
