"""Kernels that lack what the pool uses: the system call fails, as there (seccomp)."""

import pytest

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
def test_crashes_and_timeouts_where_the_kernel_lacks(
    run_script, system_call_filter, missing, method
):
    env = {"CYPAR_START_METHOD": "exec" if method == "exec" else None}
    run_script(f"{system_call_filter}\n{missing}\n{CALLS}", env=env)
