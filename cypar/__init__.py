"""Embarrassingly parallel for loops on a compiled core.

>>> from math import sqrt
>>> from cypar import Parallel, delayed
>>> Parallel(n_jobs=2)(delayed(sqrt)(i ** 2) for i in range(10))
[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]

Public names are imported on first use, so that ``import cypar`` costs almost nothing.
"""

from __future__ import annotations

__version__ = "0.1.0"

# name -> module that defines it
_HOMES = {
    "BACKENDS": "cypar.config",
    "DEFAULT_BACKEND": "cypar.config",
    "BadFileError": "cypar.core.errors",
    "CyparError": "cypar.core.errors",
    "CyparWarning": "cypar.core.errors",
    "Kernel": "cypar.kernels",
    "KernelError": "cypar.core.errors",
    "NoProgressError": "cypar.core.errors",
    "InitializerError": "cypar.core.errors",
    "Parallel": "cypar.parallel",
    "ParallelBackendBase": "cypar.backends.base",
    "PoolStartError": "cypar.core.errors",
    "RemoteError": "cypar.core.errors",
    "TaskError": "cypar.core.errors",
    "TaskPicklingError": "cypar.core.errors",
    "TaskTimeout": "cypar.core.errors",
    "TaskTraceback": "cypar.core.errors",
    "WorkerCrash": "cypar.core.errors",
    "cpu_count": "cypar.core.cpu",
    "delayed": "cypar.core._delayed",
    "dump": "cypar.transport.persistence",
    "effective_n_jobs": "cypar.resolution",
    "get_active_backend": "cypar.resolution",
    "get_include": "cypar.kernels",
    "load": "cypar.transport.persistence",
    "parallel_backend": "cypar.config",
    "parallel_config": "cypar.config",
    "register_parallel_backend": "cypar.config",
    "register_reducer": "cypar.transport.serialize",
    "set_config": "cypar.config",
    "set_pickler": "cypar.transport.serialize",
    "set_preload": "cypar.backends.pool.preload",
    "share": "cypar.transport.sharing",
    "shutdown": "cypar.lifecycle",
    "warmup": "cypar.lifecycle",
    "worker_index": "cypar.core.worker_index",
    "wrap_non_picklable_objects": "cypar.transport.wrapper",
}

__all__ = sorted(_HOMES)


def __getattr__(name):
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(__import__(home, fromlist=[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted([*globals(), *_HOMES])
