"""The memory of some processes: pages of their own, and shared memory."""

from __future__ import annotations

import os


def family(pid):
    """Yield a process and its descendants."""
    yield pid
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                children = file.read().split()
        except OSError:
            continue
        for child in children:
            yield from family(int(child))


def own_bytes(pid):
    """Return the PSS of a process, less shared memory."""
    found = amounts(f"/proc/{pid}/smaps_rollup")
    return found.get("Pss_Anon", 0) + found.get("Pss_File", 0)


def shared_bytes():
    """Return the shared memory in use, of all processes of the machine."""
    return amounts("/proc/meminfo")["Shmem"]


def amounts(path):
    """Return {name: bytes} of a file of the kernel's; {} if its process has ended."""
    found = {}
    try:
        with open(path, encoding="ascii") as file:
            for line in file:
                name, *rest = line.split()
                if rest[-1] == "kB":
                    found[name.rstrip(":")] = int(rest[-2]) * 1024
    except OSError:
        pass
    return found
