"""Start one worker process: a clean Python, by posix_spawn.

What a worker inherits: the parent's interpreter flags, its environment, its
directory and four descriptors. stdin is /dev/null, stderr goes into unnamed memory
until the worker is ready, so that a failing start can be explained. Each worker
leads a process group, so that a kill reaches the subprocesses of tasks too.
"""

from __future__ import annotations

import os
import sys
from _signal import SIGKILL  # the module `signal` imports enum: 5 ms

from cypar.core import nesting
from cypar.core._status_page import StatusPage, process_fd
from cypar.core.errors import PoolStartError
from cypar.transport._channel import Channel, socketpair
from cypar.transport.importable import worker_path

_PACKAGE_PARENT = os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
)
STDERR_TAIL_BYTES = 4000


def interpreter_flags():
    """Return the command-line flags that give a new Python this one's settings."""
    flags = sys.flags
    args = []
    counted = {"optimize": "O", "bytes_warning": "b", "verbose": "v", "debug": "d"}
    for name, letter in counted.items():
        if getattr(flags, name) > 0:
            args.append("-" + letter * getattr(flags, name))
    if flags.isolated:
        args.append("-I")
    else:
        for name, letter in {"ignore_environment": "E", "no_user_site": "s"}.items():
            if getattr(flags, name):
                args.append("-" + letter)
    if flags.no_site:
        args.append("-S")
    if flags.dont_write_bytecode:
        args.append("-B")
    for option in sys.warnoptions:
        args.append("-W" + option)
    for name, value in sys._xoptions.items():
        args.extend(("-X", name if value is True else f"{name}={value}"))
    return args


def command():
    """Return the command line of a worker but for its descriptors' numbers."""
    if not sys.executable:
        raise PoolStartError(
            "sys.executable is empty, expected the path of a Python interpreter: set "
            "it, or use backend='threading'"
        )
    path = worker_path(sys.path)
    # -c puts the working directory first: nothing is imported before the path is set.
    # Of several cypars the worker must have ours, wherever it stands on the path.
    code = (
        f"import sys; sys.path[:] = {[_PACKAGE_PARENT, *path]!r}; import cypar; "
        f"sys.path[:] = {path!r}; "
        "from cypar.backends.pool.worker import main; main(*map(int, sys.argv[1:]))"
    )
    return [sys.executable, *interpreter_flags(), "-c", code]


class Process:
    """A started worker process, as the parent holds it.

    Attributes
    ----------
    pid : int
    channel : Channel
    page : StatusPage
    process_fd : int
        Readable when the process has ended; -1 where the platform has none.
    exitcode : int or None
        ``-n`` for death by signal ``n``; None while it runs or if unknown.
    """

    def __init__(self, life_fd):
        ours, theirs = socketpair()
        self.channel = Channel(ours, False)
        self.channel.allocate = _result_memory
        self.exitcode = None
        self._reaped = False
        self.process_fd = -1
        self.page = None
        self.stderr_fd = -1
        try:
            self.page = StatusPage()
            self.stderr_fd = _memory_file()
            self.pid = _spawn(theirs, self.page.fd, life_fd, self.stderr_fd)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(theirs)
        self.page.close_fd()
        self.process_fd = process_fd(self.pid)

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

    def ready(self):
        """Free what only the start needs."""
        if self.stderr_fd >= 0:
            os.close(self.stderr_fd)
            self.stderr_fd = -1

    def kill(self):
        """Kill the worker and the subprocesses of its tasks."""
        if self._reaped:
            return
        for kill in (os.killpg, os.kill):  # before exec the group may not exist yet
            try:
                kill(self.pid, SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass

    def reap(self):
        """Collect the exit status of a killed or ended worker; leaves no zombie."""
        if self._reaped:
            return
        self._reaped = True
        try:
            _, status = os.waitpid(self.pid, 0)
        except ChildProcessError:
            return  # the program reaps all children itself
        self.exitcode = os.waitstatus_to_exitcode(status)

    def descriptors(self):
        """Return the open descriptors that belong to this worker."""
        mine = (self.channel.fd, self.page.fd, self.process_fd, self.stderr_fd)
        return {fd for fd in mine if fd >= 0}

    def close(self):
        """Close all descriptors; the process is not touched."""
        self.channel.close()
        if self.page is not None:
            self.page.close_fd()
        for name in ("process_fd", "stderr_fd"):
            fd = getattr(self, name)
            if fd >= 0:
                setattr(self, name, -1)
                os.close(fd)


def _result_memory(size):
    """Return memory that a large part of a result is received into.

    NumPy asks for huge pages, which makes fresh memory five times as fast to fill.
    """
    numpy = sys.modules.get("numpy")
    return bytearray(size) if numpy is None else numpy.empty(size, "u1")


def _memory_file():
    if hasattr(os, "memfd_create"):
        return os.memfd_create("cypar-stderr", os.MFD_CLOEXEC)
    import tempfile  # slow to import; other platforms have no unnamed memory

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _spawn(channel_fd, page_fd, life_fd, stderr_fd):
    # The numbers in the worker lie above all of ours, so that no copy hits another.
    base = max(channel_fd, page_fd, life_fd, stderr_fd, 9) + 1
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, channel_fd, base),
        (os.POSIX_SPAWN_DUP2, page_fd, base + 1),
        (os.POSIX_SPAWN_DUP2, life_fd, base + 2),
    ]
    real_stderr = -1
    if _is_open(2):
        real_stderr = base + 3
        actions.append((os.POSIX_SPAWN_DUP2, 2, real_stderr))
    actions.append((os.POSIX_SPAWN_DUP2, stderr_fd, 2))
    environ = dict(os.environ)
    environ[nesting.DEPTH_VARIABLE] = str(nesting.next_depth())
    args = [*command(), str(base), str(base + 1), str(base + 2), str(real_stderr)]
    try:
        return os.posix_spawn(
            sys.executable,
            args,
            environ,
            file_actions=actions,
            setpgroup=0,
            setsigmask=(),
        )
    except OSError as exc:
        raise PoolStartError(
            f"cannot start a worker process from sys.executable={sys.executable!r}: "
            f"{exc}. Expected the path of a Python interpreter; set sys.executable, or "
            "use backend='threading'"
        ) from exc


def _is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
