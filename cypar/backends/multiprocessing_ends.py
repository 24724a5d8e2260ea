"""Whether the workers of a Pool have ended, and how; asked without blocking.

``Process.join(timeout)`` waits for the worker's sentinel, a pipe, and then for the
process without a limit. But a task may close the pipe (by exec, say) and go on; a
process that it has forked may hold the pipe open; and the exit code may never come, for
SIGCHLD is ignored or somebody else has fetched it. So here a descriptor of the process
itself is asked, where the platform has one.
"""

from __future__ import annotations

import os
import select
import signal
import time

from cypar.backends import multiprocessing_stock as stock
from cypar.core._status_page import process_fd

PAUSE_S = 1e-3  # between two looks at a process that has no descriptor
# A thread of the Pool may have fetched an exit code and be about to say so. A process
# whose pipe is closed may be ending.
GRACE_S = 0.05


class Ends:
    """Sees to the ends of some processes of multiprocessing.

    Parameters
    ----------
    code_grace_s : float
        How long an exit code may come after its process has ended.
    """

    def __init__(self, code_grace_s=GRACE_S):
        self.code_grace_s = code_grace_s
        self._fds = {}  # by pid
        self._given_up = set()  # pids of those whose exit codes nobody can know

    def watch(self, process):
        """Return a descriptor that is readable when the process has ended, or -1."""
        fd = process_fd(process.pid)
        if fd >= 0:
            self._fds[process.pid] = fd
        return fd

    def has_ended(self, process):
        """Whether a process is gone or a zombie."""
        fd = self._fds.get(process.pid)
        if fd is not None:
            return bool(_readable([fd], 0))
        if process.exitcode is not None:
            return True
        try:
            os.kill(process.pid, 0)
        except ProcessLookupError:  # somebody else has fetched its exit code
            return True
        except PermissionError:
            pass  # it is another user's now
        return False

    def wait(self, processes, timeout_s):
        """Wait for the end of all; returns those that still run."""
        deadline = time.monotonic() + timeout_s
        while True:
            running = [process for process in processes if not self.has_ended(process)]
            left_s = deadline - time.monotonic()
            if not running or left_s <= 0:
                return running
            fds = [self._fds.get(process.pid) for process in running]
            if None in fds:
                time.sleep(min(left_s, PAUSE_S))
            else:
                _readable(fds, left_s)

    def is_cut_off(self, process):
        """Whether a process whose pipe is closed runs all the same."""
        return bool(self.wait([process], GRACE_S)) and not _is_exiting(process.pid)

    def kill(self, process):
        """SIGKILL a process and those of its group; returns whether it ran."""
        runs = not self.has_ended(process)
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # it leads no group yet, or all of the group are gone
        if runs:
            process.kill()
        return runs

    def exitcodes(self, processes, timeout_s):
        """Return the exit codes by pid, None for those that nobody can know.

        All together may take until ``timeout_s``. The processes are then told to be
        over, so that a thread of the Pool does not ask again and again.
        """
        running = self.wait(processes, timeout_s)
        deadline = time.monotonic() + self.code_grace_s
        codes = {process.pid: None for process in processes}
        for process in processes:
            if process not in running:
                codes[process.pid] = self._exitcode(process, deadline)
        return codes

    def _exitcode(self, process, deadline):
        """Return the exit code of a process that has ended, or None."""
        while process.pid not in self._given_up:
            code = process.exitcode
            if code is not None:
                return code
            if time.monotonic() > deadline:
                self._given_up.add(process.pid)
                stock.give_up_exitcode(process)
            else:
                time.sleep(PAUSE_S)
        return None

    def close(self):
        """Close the descriptors."""
        while self._fds:
            os.close(self._fds.popitem()[1])


def _readable(fds, timeout_s):
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return poll.poll(timeout_s * 1e3)


def _is_exiting(pid):
    """Whether a process has begun to end: it gives up its memory before its files.

    On a busy machine it may be some time until it has ended.
    """
    try:
        os.readlink(f"/proc/{pid}/exe")
    except FileNotFoundError:
        return os.path.exists("/proc/self/exe")
    except OSError:
        pass  # a program of another user
    return False
