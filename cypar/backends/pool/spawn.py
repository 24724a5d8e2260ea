"""Start a process: a clean Python, by posix_spawn.

It inherits the parent's interpreter flags, its environment, its directory and the
descriptors that it is given. stdin is /dev/null, and so are stdout and stderr if the
parent has closed its own: they are always open there, or else what is opened next would
take their place. It leads a process group, so that a kill reaches the subprocesses of
tasks too.
"""

from __future__ import annotations

import os
import sys
from _signal import SIGKILL  # the module `signal` imports enum: 5 ms
from errno import E2BIG

from cypar.core import nesting
from cypar.core.errors import PoolStartError
from cypar.transport.importable import worker_path

LARGE_BYTES = 1 << 14  # of an environment variable; Linux allows 128 kB
MAX_NAMED = 3
_PACKAGE_PARENT = os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
)


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


def command(module):
    """Return the command line that runs ``main`` of a module, but for its arguments."""
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
        f"from {module} import main; main(*map(int, sys.argv[1:]))"
    )
    return [sys.executable, *interpreter_flags(), "-c", code]


def spawn(module, fds, numbers=(), stderr_fd=None):
    """Start ``main`` of a module in a clean Python; returns the process id.

    Parameters
    ----------
    module : str
    fds : list of int
        ``main`` gets the numbers that they have there, then ``numbers``.
    numbers : iterable of int
    stderr_fd : int or None
        What the process has as stderr. ``main`` then gets one more descriptor at the
        end, of our stderr, or of /dev/null if we have none.

    Raises
    ------
    PoolStartError
        If the interpreter cannot be started.
    RuntimeError
        If processes are nested too deep.
    """
    # The numbers there lie above all of ours, so that no copy hits another.
    base = max(*fds, 9, -1 if stderr_fd is None else stderr_fd) + 1
    targets = range(base, base + len(fds))
    arguments = [*targets, *numbers]
    actions = [
        (os.POSIX_SPAWN_DUP2, fd, to) for fd, to in zip(fds, targets, strict=True)
    ]
    actions.append(open_null(0))
    actions += [open_null(fd) for fd in (1, 2) if not is_inherited(fd)]
    if stderr_fd is not None:
        real_stderr = base + len(fds)
        arguments.append(real_stderr)
        actions.append((os.POSIX_SPAWN_DUP2, 2, real_stderr))
        actions.append((os.POSIX_SPAWN_DUP2, stderr_fd, 2))
    environ = dict(os.environ)
    environ[nesting.DEPTH_VARIABLE] = str(nesting.next_depth())
    line = [*command(module), *map(str, arguments)]
    try:
        return os.posix_spawn(
            sys.executable,
            line,
            environ,
            file_actions=actions,
            setpgroup=0,
            setsigmask=(),
        )
    except OSError as exc:
        if exc.errno == E2BIG:
            cause = f"{exc.strerror}. {_largest(line, environ)}"
        else:
            cause = f"{exc}. Expected the path of a Python interpreter; set it"
        raise PoolStartError(
            f"cannot start a worker process from sys.executable={sys.executable!r}: "
            f"{cause}, or use backend='threading'"
        ) from exc


def _largest(line, environ):
    """Return a sentence on what makes arguments and environment too large."""
    sizes = {
        f"the environment variable {name!r}": len(os.fsencode(f"{name}={value}"))
        for name, value in environ.items()
    }
    sizes["sys.path"] = sum(len(os.fsencode(part)) for part in line)
    largest = sorted(sizes, key=sizes.get, reverse=True)[:MAX_NAMED]
    named = [what for what in largest if sizes[what] >= LARGE_BYTES] or largest[:1]
    told = ", ".join(f"{what} ({sizes[what]} bytes)" for what in named)
    return (
        "The system limits the environment and the arguments of a new process, each "
        f"of them and all together. The largest here: {told}. Make it smaller"
    )


def open_null(fd):
    """Return the action that opens a standard descriptor as /dev/null."""
    flags = os.O_RDONLY if fd == 0 else os.O_WRONLY
    return os.POSIX_SPAWN_OPEN, fd, os.devnull, flags, 0


def kill_group(pid):
    """Kill a process and the subprocesses that it has left in its group."""
    for kill in (os.killpg, os.kill):  # very early there may be no group yet
        try:
            kill(pid, SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def wait_for(pid):
    """Collect a child that was killed or has ended; returns its exit code or None."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None  # the program reaps all children itself


def is_zombie(pid):
    """Whether a child has ended; it is not collected."""
    try:
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, pid, flags) is not None
    except ChildProcessError:
        return True  # the program reaps all children itself


def is_inherited(fd):
    """Tell whether a program that we start has this standard descriptor of ours.

    If it is closed, it may be another file's number by now, which is closed on exec.
    """
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False
