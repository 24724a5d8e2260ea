"""Import what a program may need later, without losing a Ctrl-C that comes meanwhile.

CPython drops a KeyboardInterrupt that is raised in the callback of an import lock, of
which each imported module has one ("Exception ignored in ..."); the first call of a
program imports some 60 modules. So Ctrl-C waits until the import has ended.
"""

from __future__ import annotations

from cypar.core import import_gate as import_gate  # for its hook
from cypar.core.interrupts import held_interrupts

TYPE_CHECKING = False  # `typing` is slow to import; type checkers know this name
if TYPE_CHECKING:
    from typing import Any


def late_import(module: str, name: str) -> Any:
    """Return ``name`` of a module, which is imported if it has not been yet.

    Examples
    --------
    >>> late_import("math", "pi")
    3.141592653589793
    """
    with held_interrupts():
        return getattr(__import__(module, fromlist=[name]), name)
