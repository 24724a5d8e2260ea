"""The parent's side of the fork server: start it, ask it, notice that it is gone.

Used on Linux, once it is known that the server would do what a fresh interpreter
does; `start` returns None where it cannot be used, and the worker is then started by
exec. A server that died, or that cannot fork, is not asked again in this call; after
`MAX_LOSSES` deaths never again.

Thread safety: a lock guards starting and stopping; requests need none.
"""

from __future__ import annotations

import _socket
import itertools
import marshal
import os
import select
import sys
import threading

from cypar.backends.pool import preload, spawn
from cypar.backends.pool.frames import FORK, PID, REAP
from cypar.backends.pool.state import bare, snapshot
from cypar.core._status_page import above_standard
from cypar.core.interrupts import held_interrupts
from cypar.transport._channel import socketpair
from cypar.transport.importable import worker_path

START_METHOD_VARIABLE = "CYPAR_START_METHOD"
MAX_LOSSES = 2
_IS_LINUX = sys.platform.startswith("linux")
ANSWER_TIMEOUT_S = 60.0  # it may be importing something large
SHORT_S = 0.05  # for an answer that is not worth waiting for
# Environment variables with these beginnings are read when a program or a library is
# loaded: workers from a server that has others would not be like fresh ones.
READ_AT_START = ("PYTHON", "LD_", "MALLOC_", "GLIBC_TUNABLES", "OPENBLAS_CORE", "NPY_")


class ServerGone(Exception):
    """The fork server does not answer."""


class ForkServer:
    """The fork server of this process, started when it is first needed.

    Attributes
    ----------
    known : Snapshot
        State of the parent that new workers have.
    pid : int or None
    starting, working : set of int
        Numbers of the workers that are not reaped: not yet ready, and ready.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._control = None
        self._key = None  # what must not have changed since its start
        self._losses = 0
        self._useless = not _IS_LINUX
        self._lost_now = False  # in this call
        self.known = None
        self.pid = None
        self.starting = set()
        self.working = set()

    # ---- life ----------------------------------------------------------------------

    def prepare(self, life_fd):
        """Start the server, unless it runs or cannot be used; does not wait for it."""
        self._lost_now = False
        if self._control is None and self.is_usable:
            self._launch(life_fd)

    @property
    def is_usable(self):
        """Whether the next worker will be forked, as far as one can tell."""
        return not (
            self._useless
            or self._lost_now
            or self._losses >= MAX_LOSSES
            or asked_for_exec()
        )

    def _launch(self, life_fd):
        with self._lock:
            if self._control is not None:
                return
            state = bare(snapshot())
            key = _key()
            ours, theirs = packet_socketpair()
            try:
                # A Ctrl-C in the middle would leave a server that nobody knows.
                with held_interrupts():
                    self.pid = spawn.spawn(
                        "cypar.backends.pool.fork_server",
                        [theirs.fileno(), life_fd],
                        [os.getpid()],
                    )
                    self.known = state
                    self._key = key
                    self._control = ours
            except Exception:
                ours.close()
                self._useless = True  # starting a worker by exec tells why
                return
            finally:
                theirs.close()

    def stop(self):
        """End the server, which ends its workers too; the next one is a new try."""
        ended = self.detach()
        if ended is not None:
            end_server(*ended)

    def detach(self):
        """Forget the server; returns what `end_server` takes, None if there is none."""
        with self._lock:
            self._losses = 0
            self._useless = not _IS_LINUX
            control, self._control = self._control, None
            pid, self.pid = self.pid, None
        return None if control is None else (control, pid)

    def drop(self):
        """In a forked child: close what belongs to the parent's server."""
        if self._control is not None:
            self._control.close()

    def refuse(self):
        """Note that the server cannot fork; it stays, for the workers that it has."""
        self._useless = True

    def descriptors(self):
        """Return the open descriptors that belong to the server."""
        control = self._control
        return set() if control is None else {control.fileno()}

    def _lost(self, control):
        """Note that the server has died."""
        with self._lock:
            if self._control is not control:
                return
            self._control = None
            pid, self.pid = self.pid, None
        control.close()
        spawn.kill_group(pid)
        if spawn.wait_for(pid) != 0:  # else it has left, as it had nothing to do
            self._losses += 1
            self._lost_now = True

    # ---- requests --------------------------------------------------------------------

    def start(self, life_fd, channel_fd, page_fd, stderr_fd):
        """Ask for a worker; returns its number, or None if it must be started by exec.

        Does not wait. The worker says over its channel that it runs.
        """
        has_stdout, has_stderr = spawn.is_inherited(1), spawn.is_inherited(2)
        fds = [channel_fd, page_fd, stderr_fd]
        fds += [fd for fd, has in ((1, has_stdout), (2, has_stderr)) if has]
        usual, chosen = preload.names()
        content = (usual, chosen, worker_path(sys.path), has_stdout, has_stderr)
        while self.is_usable:
            self._launch(life_fd)
            control = self._control
            if control is None or self._key != _key():
                return None
            number = next(self._numbers)
            try:
                self._send(control, FORK, number, content, fds)
            except ServerGone:
                continue  # a new one, if it left because it had nothing to do
            except BlockingIOError:  # it is busy, and many wait already
                return None
            self.starting.add(number)
            return number
        return None

    def pid_of(self, number):
        """Return the process id of a worker, or None; may wait for its fork."""
        try:
            return self._ask(PID, number)
        except ServerGone:
            return None

    def reap(self, number):
        """Kill a worker with its group; returns (pid, wait status), or None.

        None if that cannot be known, or not soon: one that was never ready may have
        to wait for a long import in the server, and Ctrl-C must not. It then ends in
        its own time, since its channel is closed, or with the server.
        """
        patient = number in self.working
        late = False
        try:
            ended = self._ask(REAP, number, None if patient else SHORT_S)
        except ServerGone:
            ended = None
        except TimeoutError:
            ended = None
            late = True
        self.working.discard(number)  # now: after Ctrl-C this is done once more
        self.starting.discard(number)
        if late and not self.working and not self.starting:  # another call's, say
            self.stop()
        return ended

    def _ask(self, kind, number, timeout_s=None):
        control = self._control
        if control is None:
            raise ServerGone
        ours, theirs = socketpair()
        try:
            try:
                self._send(control, kind, number, None, [theirs])
            finally:
                os.close(theirs)
            return self._answer(ours, control, timeout_s)
        finally:
            os.close(ours)

    def _answer(self, fd, control, timeout_s):
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll((timeout_s or ANSWER_TIMEOUT_S) * 1000):
            if timeout_s is not None:
                raise TimeoutError
            self._lost(control)
            raise ServerGone
        data = os.read(fd, 1 << 16)
        if not data:
            self._lost(control)
            raise ServerGone
        return marshal.loads(data)

    def _send(self, control, kind, number, content, fds):
        data = marshal.dumps((kind, number, content))
        rights = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
        ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)]
        flags = _socket.MSG_DONTWAIT if kind == FORK else 0
        try:
            control.sendmsg([data], ancillary, flags | _socket.MSG_NOSIGNAL)
        except BlockingIOError:
            raise
        except OSError:
            self._lost(control)
            raise ServerGone from None


def packet_socketpair():
    """Return two connected sockets that keep packets apart."""
    kind = (_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    return [
        _socket.socket(*kind, 0, fileno=above_standard(end.detach()))
        for end in _socket.socketpair(*kind)
    ]


def end_server(control, pid):
    """End a server that was detached."""
    control.close()
    spawn.kill_group(pid)
    spawn.wait_for(pid)


def asked_for_exec():
    """Whether the user wants workers that are fresh interpreters."""
    return os.environ.get(START_METHOD_VARIABLE, "") in ("exec", "spawn")


def _key():
    """Return what a server must have been started with to be used now."""
    return (
        sys.executable,
        spawn.interpreter_flags(),
        os.sched_getaffinity(0),
        os.geteuid(),
        {k: v for k, v in os.environ.items() if k.startswith(READ_AT_START)},
    )
