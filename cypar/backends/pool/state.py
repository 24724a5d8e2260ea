"""What a worker must have like its parent: directory, import path, `sys.argv` ...

Checked before every dispatch; only what changed is sent (design: 1-2 us when nothing
did).
"""

from __future__ import annotations

import os
import sys

from cypar.core import nesting
from cypar.core._status_page import read_umask
from cypar.transport import serialize, settings
from cypar.transport.importable import worker_path


class Snapshot:
    """The parent's state at one moment; never changed once made."""

    __slots__ = ("argv", "authkey", "cwd", "environ", "path", "pickling", "umask")

    def __init__(self, cwd, path, argv, environ, umask, pickling, authkey):
        self.cwd = cwd
        self.path = path
        self.argv = argv
        self.environ = environ
        self.umask = umask
        self.pickling = pickling
        self.authkey = authkey


def _environ():
    """Return the live mapping of the environment, without a copy where possible."""
    return getattr(os.environ, "_data", None) or dict(os.environ)


def _cwd(old):
    try:
        return os.getcwd()
    except OSError:  # the directory was removed: the worker stays where it is
        return old


def _authkey():
    """Return (authkey, resource tracker fd) if `multiprocessing` is in use."""
    process = sys.modules.get("multiprocessing.process")
    if process is None:
        return None
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    fd = tracker._resource_tracker._fd if tracker is not None else None
    return bytes(process.current_process().authkey), fd


_latest = None


def snapshot():
    """Return the current state; the same object as before if nothing changed."""
    global _latest
    old = _latest
    environ = _environ()
    argv = getattr(sys, "argv", None)  # programs that embed Python may have none
    pickling = settings.generation
    if old is not None:
        cwd = _cwd(old.cwd)
        umask = read_umask()
        authkey = _authkey()
        if (
            environ == old.environ
            and cwd == old.cwd
            and sys.path == old.path
            and argv == old.argv
            and umask == old.umask
            and pickling == old.pickling
            and authkey == old.authkey
        ):
            return old
    else:
        cwd = _cwd(None)
        umask = read_umask()
        authkey = _authkey()
    _latest = Snapshot(
        cwd,
        list(sys.path),
        None if argv is None else list(argv),
        dict(environ),
        umask,
        pickling,
        authkey,
    )
    return _latest


def bare(state):
    """Return what a process started in ``state`` has: no settings made in Python."""
    return Snapshot(state.cwd, state.path, None, state.environ, state.umask, 0, None)


# A worker is one level deeper than its parent; on POSIX the live mapping holds bytes.
_OF_EACH_PROCESS = (nesting.DEPTH_VARIABLE, nesting.DEPTH_VARIABLE.encode())


def difference(old, new):
    """Return what a worker that knows ``old`` must change to match ``new``."""
    changes = {}
    if old is None or old.environ != new.environ:
        known = {} if old is None else old.environ
        changes["environ"] = [
            (name, value)
            for name, value in new.environ.items()
            if known.get(name) != value and name not in _OF_EACH_PROCESS
        ] + [(name, None) for name in known if name not in new.environ]
    if old is None or old.path != new.path or old.cwd != new.cwd:
        changes["path"] = worker_path(new.path, new.cwd)
    if (old is None or old.cwd != new.cwd) and new.cwd is not None:
        changes["cwd"] = new.cwd
    if new.argv is not None and (old is None or old.argv != new.argv):
        changes["argv"] = new.argv
    if old is None or old.umask != new.umask:
        changes["umask"] = new.umask
    if new.pickling and (old is None or old.pickling != new.pickling):
        changes["pickling"] = serialize.export_settings()
    if new.authkey is not None and (old is None or old.authkey != new.authkey):
        changes["authkey"] = (*new.authkey, os.getpid())
    return changes
