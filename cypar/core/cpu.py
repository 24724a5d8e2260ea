"""How many CPUs this process may use, and what `n_jobs` makes of that number.

A container or a batch system usually grants fewer CPUs than the machine has. The
number used is the least of: the machine's CPUs, the affinity mask, the CPU quota of
the control group (version 1 or 2), and the limit set in the environment.

Guarantees: affinity and environment are read at every call, so that a change counts
at once; a change of quota counts after `REREAD_AFTER_S`. A quota that cannot be read
is no limit. Nothing here raises but for a wrong argument or environment variable.
"""

from __future__ import annotations

import os
from time import monotonic

# The first one that is set counts. LOKY_... is what joblib's programs set.
ENVIRONMENT_LIMITS = ("CYPAR_MAX_CPU_COUNT", "LOKY_MAX_CPU_COUNT")

# A quota costs some twenty file accesses to read, and hardly ever changes.
REREAD_AFTER_S = 5.0

_PROC_CGROUP = "/proc/self/cgroup"
_CGROUP_ROOT = "/sys/fs/cgroup"
_CPU_TOPOLOGY = "/sys/devices/system/cpu"

_machine = (0, None, 0.0)  # cpus, quota or None, when they must be read again
_core_of_cpu = {}  # logical cpu -> identity of its physical core; never changes


def cpu_count(only_physical_cores=False):
    """Return the number of CPUs that this process may use, at least 1.

    Parameters
    ----------
    only_physical_cores : bool, default=False
        Count hyper-threads of one core once. Known on Linux only; elsewhere the
        result is the same as without.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If CYPAR_MAX_CPU_COUNT or LOKY_MAX_CPU_COUNT is set to something else than
        an integer.

    Examples
    --------
    >>> from cypar.core.cpu import cpu_count
    >>> cpu_count() >= cpu_count(only_physical_cores=True) >= 1
    True
    """
    cpus, quota, reread_at = _machine
    if monotonic() >= reread_at:
        cpus, quota = _read_machine()
    allowed = _affinity()
    if only_physical_cores:
        cpus = _count_cores(range(cpus) if allowed is None else allowed)
    elif allowed is not None and len(allowed) < cpus:
        cpus = len(allowed)
    if quota is not None and quota < cpus:
        cpus = quota
    limit = _environment_limit()[1]
    if limit is not None and limit < cpus:
        cpus = limit
    return cpus if cpus > 1 else 1


def explain_cpu_count():
    """Return what limits the number of usable CPUs, for people to read.

    Returns
    -------
    list of (str, int or None)
        One entry for each source: its name, and its limit or None where it sets
        none. `cpu_count` is the least of these limits, or 1.
    """
    cpus, quota = _read_machine()
    allowed = _affinity()
    name, limit = _environment_limit()
    return [
        ("machine", cpus),
        ("affinity", None if allowed is None else len(allowed)),
        ("cgroup quota", quota),
        (f"environment ({name or ENVIRONMENT_LIMITS[0]})", limit),
    ]


def effective_n_jobs(n_jobs):
    """Turn the `n_jobs` a user gave into the number of tasks to run at once.

    Parameters
    ----------
    n_jobs : int, float, str or None
        None means 1. A positive number is taken as it is, even above the number of
        CPUs; -1 means all CPUs, and below -1 ``cpu_count() + 1 + n_jobs``, but at
        least 1. A float is cut to its integer part; a str must spell an integer.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    ValueError
        If `n_jobs` is 0, or a float or str that is no integer.
    TypeError
        If `n_jobs` is a bool or no number at all.

    Examples
    --------
    >>> from cypar.core.cpu import effective_n_jobs
    >>> effective_n_jobs(None), effective_n_jobs(3), effective_n_jobs(2.9)
    (1, 3, 2)
    """
    if n_jobs is None:
        return 1
    number = n_jobs if type(n_jobs) is int else _to_int(n_jobs)
    if number > 0:
        return number
    if number == 0:
        raise ValueError(
            f"n_jobs is {n_jobs!r}, but zero jobs can do no work: "
            "give a positive number, or -1 for all CPUs"
        )
    return max(cpu_count() + 1 + number, 1)


def _to_int(n_jobs):
    if isinstance(n_jobs, bool):
        raise TypeError(
            f"n_jobs must be an integer or None, got {n_jobs!r}: "
            "give 1 for a serial loop, or -1 for all CPUs"
        )
    try:
        return int(n_jobs)
    except (ValueError, OverflowError):  # OverflowError: an infinite float
        raise ValueError(f"n_jobs must be an integer or None, got {n_jobs!r}") from None
    except TypeError:
        raise TypeError(
            "n_jobs must be an integer or None, "
            f"got {n_jobs!r} of type {type(n_jobs).__name__}"
        ) from None


# ---- the four sources ---------------------------------------------------------


def _read_machine():
    """Read CPUs and quota anew; return and keep them."""
    global _machine
    cpus = os.cpu_count() or 1
    quota = _cgroup_quota()
    _machine = (cpus, quota, monotonic() + REREAD_AFTER_S)
    return cpus, quota


if hasattr(os, "sched_getaffinity"):

    def _affinity():
        """Return the set of CPUs this process is bound to, or None if unknown."""
        try:
            return os.sched_getaffinity(0)
        except OSError:  # a sandbox may forbid the system call
            return None

else:

    def _affinity():
        return None


def _environment_limit():
    """Return (name, limit) of the variable that counts, or (None, None)."""
    for name in ENVIRONMENT_LIMITS:
        text = os.environ.get(name)
        if text:
            try:
                return name, max(int(text), 1)
            except ValueError:
                raise ValueError(
                    f"the environment variable {name} is {text!r}, expected an "
                    "integer: set it to the number of CPUs to use, or unset it"
                ) from None
    return None, None


def _cgroup_quota():
    """Return the CPUs that the control group's quota amounts to, or None.

    The quota of an outer group binds the groups in it, so all of them are read.
    """
    quotas = [
        quota
        for folder, read_quota in _cgroup_folders()
        for outer in _with_outer_folders(folder)
        if (quota := read_quota(outer)) is not None
    ]
    return min(quotas, default=None)


def _cgroup_folders():
    """Yield (folder under the cgroup root, function that reads its quota)."""
    for path, is_v2 in _cgroup_paths("cpu"):
        yield path, _quota_v2 if is_v2 else _quota_v1


def _cgroup_paths(controller):
    """Yield (folder under the cgroup root, whether it is of version 2)."""
    # A line is "number:controllers:path"; version 2 is number 0 without controllers.
    for line in (read_text(_PROC_CGROUP) or "").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if not controllers:
            yield path, True
            yield f"/unified{path}", True  # where both versions are mounted
        elif controller in controllers.split(","):
            yield f"/{controller}{path}", False
            yield f"/{controllers}{path}", False


def cgroup_folders(controller):
    """Yield the folders of this process's control group and the groups around it."""
    for path, _ in _cgroup_paths(controller):
        yield from _with_outer_folders(path)


def _with_outer_folders(folder):
    """Yield `folder` and the folders around it, up to the cgroup root.

    Inside a container the first ones need not exist, as `folder` may be named as
    the host sees it.
    """
    while folder.strip("/"):
        yield _CGROUP_ROOT + folder
        folder = folder.rstrip("/").rpartition("/")[0]
    yield _CGROUP_ROOT


def _quota_v2(folder):
    words = (read_text(f"{folder}/cpu.max") or "max").split()
    return None if words[0] == "max" else _ceil_cpus(*words)


def _quota_v1(folder):
    quota_us = read_text(f"{folder}/cpu.cfs_quota_us")
    period_us = read_text(f"{folder}/cpu.cfs_period_us")
    return _ceil_cpus(quota_us, period_us) if quota_us and period_us else None


def _ceil_cpus(quota_us, period_us="100000"):
    try:
        quota, period = int(quota_us), int(period_us)
    except ValueError:
        return None
    if quota <= 0 or period <= 0:  # -1 stands for no limit
        return None
    return -(-quota // period)


def _count_cores(cpus):
    """Return how many physical cores the logical `cpus` belong to."""
    for cpu in cpus:
        if cpu not in _core_of_cpu:
            folder = f"{_CPU_TOPOLOGY}/cpu{cpu}/topology"
            _core_of_cpu[cpu] = (
                read_text(f"{folder}/core_cpus_list")
                or read_text(f"{folder}/thread_siblings_list")  # Linux before 5.3
                or cpu  # unknown: a core of its own
            )
    return len({_core_of_cpu[cpu] for cpu in cpus})


def read_text(path):
    """Return the stripped text of a small file, or None if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None
