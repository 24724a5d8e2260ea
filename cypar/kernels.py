"""C functions in parallel loops: `Kernel`, and where headers for C are.

What runs without the GIL from Cython's side is in `cypar.nogil`.
"""

from __future__ import annotations

from cypar.core._kernel import Kernel
from cypar.core.errors import KernelError

__all__ = ["Kernel", "KernelError"]
