"""Kernels that lack what the pool uses: the system call fails, as there (seccomp)."""

import platform
import sys

import pytest

# machine -> number of prctl; that of pidfd_open is the same everywhere
PRCTL = {"x86_64": 157, "aarch64": 167}
PIDFD_OPEN = 434

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in PRCTL,
    reason="the filter is written for Linux on these machines",
)

# Makes one system call fail in this process and in all its children.
FILTER = f"""
import ctypes, struct
PRCTL, PIDFD_OPEN = {PRCTL.get(platform.machine())}, {PIDFD_OPEN}
PR_SET_PDEATHSIG, ENOSYS, EPERM = 1, 38, 1
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # a 32-bit word of the call; compare; result

def refuse(number, error, first_argument=None):
    steps = [(LOAD, 0, 0, 0)]
    if first_argument is None:
        steps += [(EQUAL, 0, 1, number)]
    else:
        steps += [(EQUAL, 0, 3, number), (LOAD, 0, 0, 16)]
        steps += [(EQUAL, 0, 1, first_argument)]
    steps += [(RETURN, 0, 0, 0x00050000 | error), (RETURN, 0, 0, 0x7FFF0000)]
    code = b"".join(struct.pack("HBBI", op, yes, no, k) for op, yes, no, k in steps)
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(keep(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, keep(program), 0, 0) == 0  # PR_SET_SECCOMP

kept = []

def keep(data):
    kept.append(ctypes.create_string_buffer(data, len(data)))
    return kept[-1]
"""

CALLS = """
import os, time
from cypar import Parallel, delayed

def task(i):
    if i == 5:
        if os.fork() == 0:  # it has the worker's socket, too
            time.sleep(60)
        os.kill(os.getpid(), 9)
    return i

def late(i):
    time.sleep(60 if i == 1 else 0)

for batch_size in (1, "auto"):
    out = Parallel(n_jobs=2, on_error="return", batch_size=batch_size)(
        delayed(task)(i) for i in range(10)
    )
    assert out[5].kind == "crash", out
    assert out[5].exception.exitcode == -9, out[5].exception
    assert out[:5] + out[6:] == [0, 1, 2, 3, 4, 6, 7, 8, 9], out
out = Parallel(n_jobs=2, on_error="return", timeout=0.2)(
    delayed(late)(i) for i in range(3)
)
assert (out[0], out[1].kind, out[2]) == (None, "timeout", None), out
"""


@pytest.mark.parametrize("method", ["forkserver", "exec"])
@pytest.mark.parametrize(
    "missing",
    [
        "refuse(PIDFD_OPEN, ENOSYS)",
        "refuse(PRCTL, EPERM, PR_SET_PDEATHSIG)",
        "refuse(PIDFD_OPEN, ENOSYS); refuse(PRCTL, EPERM, PR_SET_PDEATHSIG)",
    ],
    ids=["pidfd", "pdeathsig", "both"],
)
def test_crashes_and_timeouts_where_the_kernel_lacks(run_script, missing, method):
    env = {"CYPAR_START_METHOD": "exec" if method == "exec" else None}
    run_script(f"{FILTER}\n{missing}\n{CALLS}", env=env)
