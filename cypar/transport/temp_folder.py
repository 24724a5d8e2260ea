"""Files with names, for users who want large arrays in a folder of their choice.

The files of one call lie in one folder of their own, which nobody else may enter and
whose name cannot be guessed. It is removed at the end of the call, at the end of the
process, and, if the process was killed, by the next one that uses the same place. Its
name says whose it is; processes of other machines and containers, which may use the
same disk, cannot tell whether it still lives.
"""

from __future__ import annotations

import atexit
import binascii
import os
from _thread import allocate_lock

from cypar.core._segment import Segment

# the first one that is set counts
VARIABLES = ("CYPAR_TEMP_FOLDER", "JOBLIB_TEMP_FOLDER")
_PREFIX = "cypar-"
_open: set = set()  # the folders of calls that run
_lock = allocate_lock()  # while a file is made, and when all are removed
_exiting = False


def chosen_folder(argument):
    """Return the folder that the user wants, or None for memory without names."""
    if argument:
        return argument
    return next(filter(None, map(os.environ.get, VARIABLES)), None)


class TempFolder:
    """A folder for the segments of one call; made when the first one is.

    Parameters
    ----------
    parent : str
        Existing folder, or one that can be made.
    """

    def __init__(self, parent):
        self.parent = os.path.abspath(os.path.expanduser(parent))
        self.path = None
        self._count = 0

    def make_segment(self):
        """Return a segment that is a new file.

        Raises
        ------
        SystemExit
            At the interpreter's end, in a thread that is in the middle of a call.
        """
        with _lock:
            if _exiting:
                raise SystemExit("the interpreter shuts down, no files are made")
            if self.path is None:
                self._make()
            self._count += 1
            name = f"{self._count:04}-{os.urandom(6).hex()}.data"
            return Segment(os.path.join(self.path, name))

    def _make(self):
        os.makedirs(self.parent, exist_ok=True)
        remove_stale(self.parent)
        pid = os.getpid()
        owner = f"{process_space()}-{pid}-{start_time(pid)}"
        path = os.path.join(self.parent, f"{_PREFIX}{owner}-{os.urandom(8).hex()}")
        os.mkdir(path, 0o700)
        self.path = path
        _open.add(self)

    def remove(self):
        """Delete the folder with all that is in it. Idempotent."""
        path, self.path = self.path, None
        _open.discard(self)
        if path is not None:
            _remove_tree(path)


def remove_stale(parent):
    """Delete folders of processes that were killed."""
    try:
        names = os.listdir(parent)
    except OSError:
        return
    prefix = f"{_PREFIX}{process_space()}-"
    for name in names:
        pid, _, rest = name.removeprefix(prefix).partition("-")
        started = rest.partition("-")[0]
        if not name.startswith(prefix) or not pid.isdecimal() or not started:
            continue
        if start_time(int(pid)) != started:
            path = os.path.join(parent, name)
            try:
                ours = os.lstat(path).st_uid == os.getuid()
            except OSError:
                continue
            if ours:
                _remove_tree(path)


def process_space():
    """Return eight digits for the machine and container that process ids belong to."""
    try:
        with open("/etc/machine-id", encoding="ascii", errors="replace") as file:
            space = file.read()
    except OSError:
        space = os.uname().nodename
    try:
        space += os.readlink("/proc/self/ns/pid")
    except OSError:
        pass  # no /proc
    return f"{binascii.crc32(space.encode()):08x}"


def start_time(pid):
    """Return what tells a process from a later one with the same id, or "0"."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            # the name, in brackets, may hold anything; the 20th word after it
            return file.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return "0"


def _remove_tree(path):
    """Delete a flat folder of files."""
    try:
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)
    except OSError:
        pass  # the user, or another process, is removing it as well


def _remove_all():
    global _exiting
    with _lock:
        _exiting = True
    for folder in list(_open):
        folder.remove()


def _forget():
    """In a forked child: the folders are the parent's."""
    global _lock
    _lock = allocate_lock()  # another thread may have held it
    _open.clear()


atexit.register(_remove_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
