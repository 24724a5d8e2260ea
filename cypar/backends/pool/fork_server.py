"""The process that workers are forked from: clean, single-threaded, preloaded.

::

    parent --> FORK  a worker: number, modules to have, descriptors
               PID   which process is the worker of this number?
               REAP  kill a worker's group, and tell how it ended

Each request is one packet with descriptors; an answer goes to a socket that came
with the request, so that threads of the parent need no lock for it. A worker stays a
zombie until REAP asks for it: until then its number of process and group is not used
again, and the parent may send kills there.

User code never runs here, but for the modules of `cypar.set_preload`. The server
forks only while it has one thread. It leaves when the parent is gone, and after a
time without workers.
"""

from __future__ import annotations

import _socket
import gc
import marshal
import os
import select
import sys
from _signal import SIG_DFL, SIGCHLD, SIGINT, signal  # see worker.py

from cypar.backends.pool import frames, worker
from cypar.backends.pool.frames import FORK, PID
from cypar.backends.pool.spawn import kill_group
from cypar.core._status_page import (
    above_standard,
    die_with_parent,
    die_with_pipe,
    process_fd,
)
from cypar.core.interrupts import ignore_ctrl_c
from cypar.transport._channel import Channel

MAX_REQUEST_BYTES = 1 << 16
MAX_DESCRIPTORS = 8
INT_BYTES = 4
PARENT_CHECK_MS = 500  # where a process has no descriptor
LIBRARY_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class ForkServer:
    """Serves one parent; see the top of this file."""

    def __init__(self, control, life_fd, parent_pid):
        self.control = control
        self.life_fd = life_fd  # workers tie their life to this pipe
        self.pid = os.getpid()
        self.parent_pid = parent_pid
        self.parent_fd = process_fd(parent_pid)
        self.children = {}  # number -> process id, zombies included
        self.tried = set()  # modules that were imported or cannot be

    def serve(self):
        """Answer requests until the parent is gone; then end the workers' groups.

        Not before: a worker dies with us, and only its whole group has the
        subprocesses of its task.
        """
        try:
            self.serve_requests()
        except (ConnectionError, KeyboardInterrupt):
            pass  # the parent is gone
        finally:
            for pid in self.children.values():
                kill_group(pid)

    def serve_requests(self):
        poll = select.poll()
        poll.register(self.control.fileno(), select.POLLIN)
        if self.parent_fd >= 0:
            poll.register(self.parent_fd, select.POLLIN)
        idle_ms = worker.IDLE_TIMEOUT_S * 1000
        waited_ms = 0
        while os.getppid() == self.parent_pid:
            step_ms = idle_ms if self.parent_fd >= 0 else PARENT_CHECK_MS
            events = poll.poll(step_ms)
            if any(fd == self.parent_fd for fd, _ in events):
                return
            if events:
                waited_ms = 0
                if not self.handle_next():
                    return
                continue
            waited_ms += step_ms
            if waited_ms >= idle_ms and not self.has_live_child():
                return

    def handle_next(self):
        """Receive and handle one request; False at the end of the parent's side."""
        data, ancillary, _, _ = self.control.recvmsg(
            MAX_REQUEST_BYTES,
            _socket.CMSG_SPACE(MAX_DESCRIPTORS * INT_BYTES),
            getattr(_socket, "MSG_CMSG_CLOEXEC", 0),
        )
        fds = memoryview(b"".join(part for _, _, part in ancillary)).cast("i").tolist()
        try:
            if not data:
                return False
            kind, number, content = marshal.loads(data)
            if kind == FORK:
                self.fork(number, fds, *content)
            elif kind == PID:
                answer(fds[0], self.children.get(number))
            else:
                answer(fds[0], self.reap(number))
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def has_live_child(self):
        """Whether a worker runs; those that have ended are left as they are."""
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return any(
            os.waitid(os.P_PID, pid, how) is None for pid in self.children.values()
        )

    def reap(self, number):
        """Kill a worker with its group; returns (process id, status), or None."""
        pid = self.children.pop(number, None)
        if pid is None:
            return None
        kill_group(pid)
        return pid, os.waitpid(pid, 0)[1]

    # ---- forking -------------------------------------------------------------------

    def fork(self, number, fds, usual, chosen, path, has_stdout, has_stderr):
        """Fork one worker, or say over its channel that it must be started else."""
        self.preload(usual, chosen, path)
        pid = None
        if n_threads() == 1:
            try:
                pid = os.fork()
            except OSError:
                pass  # no memory or no processes left: the parent finds out itself
        if pid is None:
            refuse(fds[0])
        elif pid == 0:
            try:
                self.become_worker(fds, has_stdout, has_stderr)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(1)
        else:
            self.children[number] = pid
            make_group(pid)

    def become_worker(self, fds, has_stdout, has_stderr):
        """In the child: let go of all that is the server's, and run the worker."""
        make_group(0)
        if not die_with_parent(self.pid):
            refuse(fds[0])  # no such thing here, or the server has just ended
            os._exit(1)
        self.control.close()
        if self.parent_fd >= 0:
            os.close(self.parent_fd)
        # What is moved to 1 and 2 must not stand there already, nor anything else:
        # a preloaded module may have closed them.
        channel_fd, page_fd, start_stderr, *standard = map(above_standard, fds)
        stdout = standard.pop(0) if has_stdout else open_null()
        stderr_fd = standard.pop(0) if has_stderr else open_null()
        for fd, to in ((start_stderr, 2), (stdout, 1)):
            os.dup2(fd, to)
            os.close(fd)
        reseed()
        gc.enable()
        worker.main(channel_fd, page_fd, self.life_fd, self.parent_pid, stderr_fd)

    def preload(self, usual, chosen, path):
        """Import what is missing, with one thread for libraries that like many."""
        missing = [name for name in (*usual, *chosen) if name not in self.tried]
        if not missing:
            return
        self.tried.update(missing)
        own_life_fd = open_pipe_again(self.life_fd)
        if not self.children:  # else they would die with us before their groups do
            die_with_pipe(own_life_fd)  # an import may take for ever
        own_path = sys.path[:]
        own_environ = dict(os.environ)
        sys.path[:] = path
        os.environ.update(dict.fromkeys(LIBRARY_THREADS, "1"))
        if "numpy" in missing:
            missing.append("threadpoolctl")  # workers with numpy need it
        try:
            for name in missing:
                self.try_import(name, name in chosen)
        finally:
            os.close(own_life_fd)
            sys.path[:] = own_path
            for name in LIBRARY_THREADS:
                if name in own_environ:
                    os.environ[name] = own_environ[name]
                else:
                    os.environ.pop(name, None)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()  # else every worker would write it once more
        gc.collect()
        gc.freeze()  # a collection in a worker would copy all these pages

    @staticmethod
    def try_import(name, is_chosen):
        try:
            __import__(name)
        except BaseException as exc:
            if is_chosen:  # else the task that needs it says so
                print(
                    f"cypar: set_preload cannot import {name!r}: "
                    f"{type(exc).__name__}: {exc}",
                    file=sys.stderr,
                )


def refuse(channel_fd):
    """Say that this worker must be started by exec."""
    channel = Channel(os.dup(channel_fd), True)
    try:
        channel.send(frames.NO_FORK)
    except BrokenPipeError:
        pass  # the parent is gone, or has given it up
    channel.close()


def answer(fd, value):
    """Send an answer; the parent may have given up waiting for it."""
    try:
        os.write(fd, marshal.dumps(value))
    except BrokenPipeError:
        pass


def open_null():
    """Return a descriptor that stands for a stdout or stderr that the parent lacks."""
    return above_standard(os.open(os.devnull, os.O_WRONLY))


def open_pipe_again(life_fd):
    """Return a descriptor of its own on the pipe: settings are per open file."""
    return os.open(f"/proc/self/fd/{life_fd}", os.O_RDONLY | os.O_NONBLOCK)


def n_threads():
    """Return the number of this process's threads, native ones included."""
    return len(os.listdir("/proc/self/task"))


def make_group(pid):
    """Make a process lead a group; parent and child both try, who comes first."""
    try:
        os.setpgid(pid, pid)
    except OSError:
        pass  # it has ended


def reseed():
    """Give this process random numbers of its own."""
    # `random` does so by itself, by a hook of its own
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def main(control_fd, life_fd, parent_pid):
    """Run the server; called by the command line that `fork_handle` writes."""
    gc.disable()  # nothing here makes cycles
    signal(SIGCHLD, SIG_DFL)  # if the parent ignores it, so would we: no exit codes
    signal(SIGINT, ignore_ctrl_c)  # the parent acts on Ctrl-C
    for fd in (control_fd, life_fd):
        os.set_inheritable(fd, False)
    control = _socket.socket(
        _socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fileno=control_fd
    )
    gc.collect()
    gc.freeze()
    ForkServer(control, life_fd, parent_pid).serve()
    os._exit(0)
