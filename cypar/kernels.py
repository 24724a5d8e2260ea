"""C functions in parallel loops: `Kernel`, and where the header for C is.

What runs without the GIL from Cython's side is in `cypar.nogil`.
"""

from __future__ import annotations

import os

from cypar.core._kernel import Kernel
from cypar.core.errors import KernelError

__all__ = ["Kernel", "KernelError", "get_include"]


def get_include():
    """Return the folder of ``cypar.h``, which offers `cypar.nogil` to C and C++.

    Cython code needs no header: it says ``cimport cypar.nogil``.

    Returns
    -------
    str

    Examples
    --------
    >>> import os
    >>> import cypar
    >>> os.listdir(cypar.get_include())
    ['cypar.h']
    """
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "include")
