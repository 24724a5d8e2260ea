"""How deep worker processes may start worker processes: a bound against avalanches."""

from __future__ import annotations

import os

DEPTH_VARIABLE = "CYPAR_DEPTH"
MAX_DEPTH_VARIABLES = ("CYPAR_MAX_DEPTH", "LOKY_MAX_DEPTH")
DEFAULT_MAX_DEPTH = 10


def next_depth():
    """Return the depth of a worker started now.

    Raises
    ------
    RuntimeError
        If processes are nested deeper than CYPAR_MAX_DEPTH (default 10).
    """
    depth = int(os.environ.get(DEPTH_VARIABLE, "0")) + 1
    limit = DEFAULT_MAX_DEPTH
    for name in MAX_DEPTH_VARIABLES:
        if os.environ.get(name):
            limit = int(os.environ[name])
            break
    if depth > limit:
        raise RuntimeError(
            f"worker processes are nested {depth} levels deep, at most {limit} are "
            "allowed: a task starts processes that start processes. Use n_jobs=1 or "
            "prefer='threads' inside tasks, or raise CYPAR_MAX_DEPTH"
        )
    return depth
