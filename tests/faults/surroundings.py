"""Machines with little left: a full disk, no descriptors."""

import contextlib
import ctypes
import os
import resource
import subprocess
import time

from cypar.backends.pool.supervisor import pool

DISK_BYTES = 1 << 20
SIZE_LIMITS = (200_000, 500_000, 2_000_000)
FREE_DESCRIPTORS = {"some": 40, "few": 12, "none": 1}
END_S = 5.0
_CLONE_NEWNS = 0x00020000


def can_mount():
    """Enter a mount namespace of our own; False where that is not allowed.

    What is mounted in it goes with the last of its processes, however they end.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare") or libc.unshare(_CLONE_NEWNS) != 0:
        return False
    private = subprocess.run(
        ["mount", "--make-rprivate", "/"], capture_output=True, check=False
    )
    return private.returncode == 0


@contextlib.contextmanager
def around(program, folder, mountable):
    """Yield the folder for `Parallel`'s temp_folder, with little room if need be."""
    temp_folder = os.path.join(folder, "temp") if program.temp_folder else None
    if program.fault == "disk":
        if program.variant == "full folder" and mountable:
            with full_folder(folder, program.number) as temp_folder:
                yield temp_folder
        else:
            with size_limit(program.number):
                yield temp_folder
    elif program.fault == "descriptors":
        with descriptor_limit(program):
            yield temp_folder
    else:
        yield temp_folder


@contextlib.contextmanager
def full_folder(folder, number):
    """A file system of its own that has no room, or soon has none."""
    path = os.path.join(folder, "full")
    os.makedirs(path, exist_ok=True)
    size = DISK_BYTES * (number % 3) + 4096
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True, capture_output=True)


@contextlib.contextmanager
def size_limit(number):
    """Files, and memory files, cannot grow beyond a limit."""
    limit = SIZE_LIMITS[number % len(SIZE_LIMITS)]
    with soft_limit(resource.RLIMIT_FSIZE, limit):
        yield


@contextlib.contextmanager
def descriptor_limit(program):
    """Only few descriptors are free."""
    if program.number % 2:
        pool.shutdown()  # workers have to be started, too
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    free = FREE_DESCRIPTORS[program.variant]
    with soft_limit(resource.RLIMIT_NOFILE, highest + 1 + free):
        yield


@contextlib.contextmanager
def soft_limit(which, value):
    """Lower a limit; workers that were started meanwhile have it, too, and go."""
    soft, hard = resource.getrlimit(which)
    resource.setrlimit(which, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(which, (soft, hard))
        deadline = time.monotonic() + END_S
        while pool.pids()[1] and time.monotonic() < deadline:
            time.sleep(0.001)  # the thread of a stopped call is about to let them go
        pool.shutdown()
