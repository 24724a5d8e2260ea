"""Let no fork come in the middle of an import of another thread.

In the forked process that import never ends, and who needs the module waits for it: its
first call would hang. So a fork waits for such imports, and none begins until it is
done. The forks of cypar's own wait for all imports (`no_half_imports`), those of the
program for imports of cypar only, a few milliseconds in its first call.

Thread safety: the interpreter's import lock, which is held during the fork.
"""

from __future__ import annotations

import _frozen_importlib
import _imp
import _thread
import os
import time

from cypar.core.interrupts import held_interrupts

IMPORT_S = 5.0  # a fork waits this long: the import may need what the fork's thread has
NAMES = ("cypar", "cloudpickle")  # packages that cypar imports in the middle of calls

_holding: set[int] = set()  # threads that fork, of which one has the import lock
_strict: set[int] = set()  # threads whose forks wait for all imports


class no_half_imports:
    """Let forks of this thread wait for all imports of others, until the block ends.

    Examples
    --------
    >>> with no_half_imports():
    ...     pass
    """

    def __enter__(self) -> None:
        _strict.add(_thread.get_ident())

    def __exit__(self, *_: object) -> None:
        _strict.discard(_thread.get_ident())


def imports_of_others() -> list[str]:
    """Return the names of modules that other threads are about to import.

    Only those that a fork of this thread has to wait for.

    Examples
    --------
    >>> imports_of_others()
    []
    """
    me = _thread.get_ident()
    names = []
    for name, reference in list(_frozen_importlib._module_locks.items()):
        if me in _strict or name.partition(".")[0] in NAMES:
            lock = reference()
            owner = getattr(lock, "owner", None)
            if owner is not None and owner != me:
                names.append(name)
    return names


def _close() -> None:
    """Wait for the end of these imports, and let none begin until the fork."""
    # What is raised here is not told to the program, and a Ctrl-C would be lost.
    with held_interrupts():
        _holding.add(_thread.get_ident())
        deadline = time.monotonic() + IMPORT_S
        while True:
            _imp.acquire_lock()  # needed to begin an import, not to go on with one
            if not imports_of_others() or time.monotonic() > deadline:
                break
            _imp.release_lock()
            time.sleep(1e-3)


def _open() -> None:
    me = _thread.get_ident()
    if me in _holding:
        _holding.discard(me)
        try:
            _imp.release_lock()
        except RuntimeError:
            pass  # a signal handler ended `_close`, or a forked child has a new lock


def _open_in_child() -> None:
    _open()
    _holding.clear()
    _strict.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_close, after_in_parent=_open, after_in_child=_open_in_child
    )
