"""How much memory this process may use: the machine's, or the control group's limit.

A container is often granted far less than the machine has, and pages of shared memory
count. Numbers that cannot be read are no limit. Nothing here raises.
"""

from __future__ import annotations

from cypar.core.cpu import cgroup_folders, read_text

_MEMINFO = "/proc/meminfo"
UNKNOWN_BYTES = 4 << 30  # assumed where the system does not say


def memory_limit():
    """Return the bytes of memory that this process and its workers may use.

    Examples
    --------
    >>> memory_limit() > 0
    True
    """
    limits = [_machine_bytes()]
    for folder in cgroup_folders("memory"):
        limits.append(_as_bytes(read_text(f"{folder}/memory.max")))
        limits.append(_as_bytes(read_text(f"{folder}/memory.limit_in_bytes")))
    return min((limit for limit in limits if limit), default=UNKNOWN_BYTES)


def _machine_bytes():
    for line in (read_text(_MEMINFO) or "").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            return _as_bytes(rest.split()[0], 1024)
    return None


def _as_bytes(text, unit=1):
    """Return the number in a file, or None for 'max', nothing or no number."""
    try:
        return int(text) * unit or None
    except (TypeError, ValueError):
        return None
