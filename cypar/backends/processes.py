"""The process backend: tasks run on our own warm pool of worker processes.

The default backend. `cypar.backends.pool` has the parts: supervisor (which workers
exist), dispatcher (one call), readings (what workers report), worker (the process).
"""

from __future__ import annotations

import os

from cypar.backends.base import Backend
from cypar.backends.pool.dispatcher import Dispatcher
from cypar.backends.pool.state import snapshot
from cypar.backends.pool.supervisor import pool
from cypar.backends.worker_life import PARAMETERS, WorkerLife
from cypar.core import config_state
from cypar.core._helper_threads import is_shutting_down
from cypar.core._task_queue import LIST, Call
from cypar.core.cpu import cpu_count, effective_n_jobs
from cypar.core.errors import InitializerError
from cypar.transport import functions, serialize
from cypar.transport._capture import Capture
from cypar.transport.memory import CallMemory

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
    param_names = PARAMETERS

    def effective_n_jobs(self, n_jobs):
        return 1 if is_shutting_down() else effective_n_jobs(n_jobs)

    def run(self, call):
        state = snapshot()
        options = call.options
        memory = CallMemory(options.max_nbytes, options.mmap_mode, options.temp_folder)
        call.source.capture = Capture(_functions(state), None, _explain, memory)
        self._dispatcher(call, state, memory).run()

    def warm_up(self, options):
        call = Call(options, iter(()), LIST, config_state.caller_context())
        memory = CallMemory(options.max_nbytes, options.mmap_mode, options.temp_folder)
        self._dispatcher(call, snapshot(), memory).warm_up()

    def parse_params(self, params):
        """Return the `WorkerLife` that parameters ask for."""
        return WorkerLife(**params)

    def _dispatcher(self, call, state, memory):
        life = call.options.worker_life
        setup = None
        if life is not None and life.initializer is not None:
            setup = _pickled(life)
        call_state = _call_state(call.options, state)
        return Dispatcher(call, pool, call_state, _table, memory, setup)


# Functions that were encoded before: most programs call the same few in every loop.
_table = functions.FunctionTable()
_table_path = None  # the import path and directory that its answers hold for
_call_states = {}  # (options that matter, environment) -> what workers must know


def _functions(state):
    """Return the table of functions, emptied if the import path has changed."""
    global _table_path
    if _table_path != (state.path, state.cwd):
        _table.clear()
        _table_path = (state.path, state.cwd)
    return _table


def _pickled(life):
    """Return the initializer and its arguments, as workers get them."""
    try:
        return serialize.dumps((life.initializer, life.initargs))
    except Exception as exc:
        raise InitializerError(
            f"initializer={life.initializer!r} with its initargs cannot be sent to "
            f"worker processes: {type(exc).__name__}: {exc}"
        ) from exc


def _explain(*failed):
    from cypar.transport.culprit import explain  # needed only after a failure

    return explain(*failed)


def _call_state(options, state):
    """Return what workers must know of a call: level, threads, variables to set."""
    n_threads = options.inner_max_num_threads
    key = (options.nesting_level, options.n_jobs, n_threads, id(state))
    known = _call_states.get(key)
    if known is not None and known[0] is state:
        return known[1]
    variables = THREAD_VARIABLES
    if n_threads is None:
        n_threads = max(cpu_count() // options.n_jobs, 1)
        # What the user set himself stays as it is.
        variables = tuple(name for name in variables if name not in os.environ)
    call_state = (options.nesting_level, n_threads, variables)
    if len(_call_states) > 64:
        _call_states.clear()
    _call_states[key] = (state, call_state)
    return call_state
