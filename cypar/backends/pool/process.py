"""One worker process as its parent holds it: start, kill, how it ended.

It is forked by the fork server where that can be used, and started by exec else. Its
stderr goes into unnamed memory until it is ready, so that a failing start can be
explained.
"""

from __future__ import annotations

import os
import select
import sys
import time
from _signal import SIGKILL  # see spawn.py

from cypar.backends.pool.spawn import is_zombie, kill_group, spawn, wait_for
from cypar.core._status_page import StatusPage, above_standard, process_fd
from cypar.core.interrupts import held_interrupts
from cypar.transport._channel import Channel, socketpair

STDERR_TAIL_BYTES = 4000
GRACE_S = 0.05  # a process that dies has closed its channel by less than this before
KILL_S = 1.0
_PF_EXITING = 4  # <linux/sched.h>


class Process:
    """A started worker process, as the parent holds it.

    Parameters
    ----------
    life_fd : int
        Read end of the pipe that ties it to us.
    server : ForkServer

    Attributes
    ----------
    channel : Channel
    page : StatusPage
    process_fd : int
        Readable when the process has ended; -1 where the platform has none.
    exitcode : int or None
        ``-n`` for death by signal ``n``; None while it runs or if unknown.
    hung_up : bool
        It closed its channel and lived on, until we killed it.
    """

    def __init__(self, life_fd, server):
        ours, theirs = socketpair()
        self.channel = Channel(ours, False)
        self.channel.allocate = _result_memory
        self.exitcode = None
        self.hung_up = False
        self._reaped = False
        self._server = server
        self._number = None  # of one that the server has forked
        self._pid = None
        self.process_fd = -1
        self.page = None
        self.stderr_fd = -1
        try:
            self.page = StatusPage()
            self.stderr_fd = _memory_file()
            self._start(theirs, life_fd)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(theirs)
        self.page.close_fd()

    def _start(self, channel_fd, life_fd):
        page_fd, stderr_fd = self.page.fd, self.stderr_fd
        self._number = self._server.start(life_fd, channel_fd, page_fd, stderr_fd)
        if self._number is None:
            fds = [channel_fd, page_fd, life_fd]
            # A Ctrl-C in the middle would leave a worker that nobody knows.
            with held_interrupts():
                self._note_pid(
                    spawn("cypar.backends.pool.worker", fds, (os.getpid(),), stderr_fd)
                )

    def _note_pid(self, pid):
        if self._pid is None:
            self._pid = pid
            # a forked one that has ended keeps its number until `reap`
            self.process_fd = process_fd(pid)

    @property
    def is_forked(self):
        """Whether the fork server has started it."""
        return self._number is not None

    @property
    def pid(self):
        """Process id, or None for one that could not be forked; may wait for it."""
        if self._pid is None and not self._reaped:
            self._pid = self._server.pid_of(self._number)
        return self._pid

    def has_ended(self):
        """Whether it is a zombie: to be asked where it has no `process_fd`.

        Its socket may stay open, as a subprocess of a task can have inherited it.
        """
        if self._reaped or self._pid is None:
            return False
        if self._number is None:
            return is_zombie(self._pid)
        fields = _stat(self._pid)
        return fields is None or fields[0] in b"ZX"

    def await_end(self):
        """Wait for the end of a process whose channel is closed; kill what lives on.

        One that dies closes its channel a moment before it has ended.
        """
        if self._reaped or self._pid is None or self._ends_within(GRACE_S):
            return
        fields = _stat(self._pid)
        if fields is not None and int(fields[6]) & _PF_EXITING:
            return  # the kernel takes it down, and needs long for that
        self.hung_up = True
        self.kill()
        self._ends_within(KILL_S)  # from then on it logs nothing more

    def _ends_within(self, timeout_s):
        """Wait until the process has ended; False if it has not by then."""
        if self.process_fd >= 0:
            poll = select.poll()
            poll.register(self.process_fd, select.POLLIN)
            return bool(poll.poll(timeout_s * 1e3))
        deadline = time.monotonic() + timeout_s
        while not self.has_ended():
            if time.monotonic() > deadline:
                return False
            time.sleep(1e-3)
        return True

    def stderr_tail(self):
        """Return the end of what the worker wrote before it was ready."""
        try:
            size = os.lseek(self.stderr_fd, 0, os.SEEK_END)
            start = max(0, size - STDERR_TAIL_BYTES)
            return os.pread(self.stderr_fd, STDERR_TAIL_BYTES, start).decode(
                errors="replace"
            )
        except OSError:
            return ""

    def ready(self, pid):
        """Note that it runs; frees what only the start needs."""
        self._note_pid(pid)
        if self._number is not None:
            self._server.working.add(self._number)
            self._server.starting.discard(self._number)
        if self.stderr_fd >= 0:
            os.close(self.stderr_fd)
            self.stderr_fd = -1

    def kill(self):
        """Kill the worker and the subprocesses of its tasks; does not wait."""
        if not self._reaped and self._pid is not None:
            kill_group(self._pid)

    def reap(self):
        """Kill it and collect how it ended; leaves no zombie."""
        if self._reaped:
            return
        self._reaped = True  # first: its process id may soon be another's
        try:
            self._collect()
        except BaseException:  # Ctrl-C
            self._reaped = False
            raise

    def _collect(self):
        if self._number is None:
            self.exitcode = wait_for(self._pid)
        else:
            ended = self._server.reap(self._number)
            if ended is not None:
                self._pid, status = ended
                self.exitcode = os.waitstatus_to_exitcode(status)
        if self.hung_up and self.exitcode == -SIGKILL:
            self.exitcode = None  # we did that
        else:
            self.hung_up = False  # it came to an end just before

    def descriptors(self):
        """Return the open descriptors that belong to this worker."""
        mine = (self.channel.fd, self.page.fd, self.process_fd, self.stderr_fd)
        return {fd for fd in mine if fd >= 0}

    def close(self):
        """Close all descriptors; the process is not touched. Idempotent."""
        self.channel.close()
        if self.page is not None:
            self.page.close_fd()
        # Ctrl-C can come after a call only: nothing is lost, and nothing closed twice
        fd, self.process_fd = self.process_fd, -1
        if fd >= 0:
            os.close(fd)
        fd, self.stderr_fd = self.stderr_fd, -1
        if fd >= 0:
            os.close(fd)


def _stat(pid):
    """Return the fields of /proc/PID/stat from the state on, or None."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return None


def _result_memory(size):
    """Return memory that a large part of a result is received into.

    NumPy asks for huge pages, which makes fresh memory five times as fast to fill.
    """
    numpy = sys.modules.get("numpy")
    return bytearray(size) if numpy is None else numpy.empty(size, "u1")


def _memory_file():
    if hasattr(os, "memfd_create"):
        return above_standard(os.memfd_create("cypar-stderr", os.MFD_CLOEXEC))
    import tempfile  # slow to import; other platforms have no unnamed memory

    with tempfile.TemporaryFile() as file:
        return above_standard(os.dup(file.fileno()))
