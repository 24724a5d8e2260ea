"""Let no fork of the program come in the middle of an import of cypar's own.

In the forked process the import of another thread never ends, and who needs the module
waits for it: its first call would hang. So `os.fork` waits for imports of cypar that
other threads are in the middle of, a few milliseconds in a program's first call, and
none begins until it is done. Imports that have nothing to do with cypar are let be.

Thread safety: the interpreter's import lock, which is held during the fork.
"""

from __future__ import annotations

import _frozen_importlib
import _imp
import _signal
import _thread
import os
import time

IMPORT_S = 5.0  # a fork waits this long: the import may need what the fork's thread has
NAMES = ("cypar", "cloudpickle")  # packages that cypar imports in the middle of calls

_has_masks = hasattr(_signal, "pthread_sigmask")
_forking: set[int] = set()  # threads that fork, of which one has the import lock


def imports_of_others() -> list[str]:
    """Return the names of modules of cypar that other threads are about to import.

    Examples
    --------
    >>> imports_of_others()
    []
    """
    names = []
    for name, reference in list(_frozen_importlib._module_locks.items()):
        if name.partition(".")[0] in NAMES:
            lock = reference()
            owner = getattr(lock, "owner", None)
            if owner is not None and owner != _thread.get_ident():
                names.append(name)
    return names


def _close() -> None:
    """Wait for the end of these imports, and let none begin until the fork."""
    # What is raised here is not told to the program, and a Ctrl-C would be lost.
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGINT])
    try:
        _forking.add(_thread.get_ident())
        deadline = time.monotonic() + IMPORT_S
        while True:
            _imp.acquire_lock()  # needed to begin an import, not to go on with one
            if not imports_of_others() or time.monotonic() > deadline:
                break
            _imp.release_lock()
            time.sleep(1e-3)
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)


def _open() -> None:
    me = _thread.get_ident()
    if me in _forking:
        _forking.discard(me)
        try:
            _imp.release_lock()
        except RuntimeError:
            pass  # a signal handler ended `_close`, or a forked child has a new lock


def _open_in_child() -> None:
    _open()
    _forking.clear()


if hasattr(os, "register_at_fork") and _has_masks:
    os.register_at_fork(
        before=_close, after_in_parent=_open, after_in_child=_open_in_child
    )
