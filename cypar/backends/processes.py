"""The process backend: tasks run on our own warm pool of worker processes.

The default backend. `cypar.backends.pool` has the parts: supervisor (which workers
exist), dispatcher (one call), readings (what workers report), worker (the process).
"""

from __future__ import annotations

import os

from cypar.backends.base import Backend
from cypar.backends.pool.dispatcher import Dispatcher
from cypar.backends.pool.supervisor import pool
from cypar.core._helper_threads import is_shutting_down
from cypar.core.cpu import cpu_count, effective_n_jobs
from cypar.transport import functions, serialize
from cypar.transport._capture import Capture

# Libraries read these when they are loaded, so they are set before any task.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "LOKY_MAX_CPU_COUNT",  # cypar's and joblib's own count of CPUs
)


class ProcessBackend(Backend):
    """Run tasks on worker processes that are kept warm between calls."""

    name = "processes"
    label = "ProcessBackend"

    def effective_n_jobs(self, n_jobs):
        return 1 if is_shutting_down() else effective_n_jobs(n_jobs)

    def run(self, call):
        table = functions.FunctionTable()
        call.source.capture = Capture(table, serialize.dumps, _explain)
        Dispatcher(call, pool, _call_state(call.options), table).run()


def _explain(*failed):
    from cypar.transport.culprit import explain  # needed only after a failure

    return explain(*failed)


def _call_state(options):
    """Return what workers must know of a call: level, threads, variables to set."""
    if options.inner_max_num_threads is not None:
        return options.nesting_level, options.inner_max_num_threads, THREAD_VARIABLES
    n_threads = max(cpu_count() // options.n_jobs, 1)
    # What the user set himself stays as it is.
    unset = tuple(name for name in THREAD_VARIABLES if name not in os.environ)
    return options.nesting_level, n_threads, unset
