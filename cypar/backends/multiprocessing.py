"""The 'multiprocessing' backend: tasks run on a `multiprocessing.Pool`.

::

    draw (serialised at once) -> a free ticket -> Pool.apply_async -> a worker
    wait: notes, answers, a worker's end -> result logs and answers -> outcomes

For programs that rely on the start methods of `multiprocessing`; forked workers see
the caller's globals. The pool lives as long as the call, or as the with-block. See
multiprocessing_pool (the processes) and multiprocessing_worker (what runs in them).
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import warnings

from cypar.backends import multiprocessing_stock as stock
from cypar.backends.base import Backend
from cypar.backends.multiprocessing_calls import Dispatcher
from cypar.backends.multiprocessing_pool import no_interrupt, start
from cypar.backends.processes import THREAD_VARIABLES
from cypar.core._helper_threads import is_shutting_down
from cypar.core.cpu import cpu_count, effective_n_jobs
from cypar.core.errors import CyparWarning
from cypar.transport._capture import Capture
from cypar.transport.functions import FunctionTable
from cypar.transport.memory import CallMemory

START_METHOD_VARIABLES = ("CYPAR_START_METHOD", "JOBLIB_START_METHOD")


class MultiprocessingBackend(Backend):
    """Run tasks on a `multiprocessing.Pool`.

    Parameters
    ----------
    context : multiprocessing context, optional
        Starts the processes. By default the environment variable CYPAR_START_METHOD
        or JOBLIB_START_METHOD chooses the start method: 'fork' where neither is set,
        but the platform's own on Windows.
    """

    name = "multiprocessing"
    label = "MultiprocessingBackend"

    def __init__(self, context=None):
        self._given = context
        self._forget(os.getpid())

    def _forget(self, pid):
        self._pid = pid
        self._lock = threading.Lock()
        self._prepared = {}  # id(options) -> (options, pool, its arguments, block)
        self._blocks = []  # with-blocks that are open

    def effective_n_jobs(self, n_jobs):
        n_jobs = effective_n_jobs(n_jobs)
        if is_shutting_down():
            return 1
        if n_jobs > 1 and multiprocessing.current_process().daemon:
            warnings.warn(
                "a daemonic process of multiprocessing cannot have child processes: "
                "the loop runs with n_jobs=1. Use the backend 'threading' there",
                CyparWarning,
                stacklevel=4,  # who calls the Parallel object
            )
            return 1
        return n_jobs

    # ---- one call ------------------------------------------------------------------

    def prepare(self, options):
        """Start the workers, from the thread whose state forked ones should have."""
        if self._pid != os.getpid():
            self._forget(os.getpid())  # this is a forked child
        arguments = self._pool_arguments(options)
        with no_interrupt():
            block = self._claim_block()
            try:
                pool = block.take(arguments) if block is not None else None
                if pool is None:
                    pool = start(*arguments)
                    if block is not None:
                        block.pool, block.arguments = pool, arguments
            except BaseException:
                if block is not None:
                    self._give_back(block)
                raise
            self._prepared[id(options)] = (options, _Lent(pool, arguments, block))

    def run(self, call):
        options = call.options
        if id(options) not in self._prepared:
            if call.stopping:
                return  # by Ctrl-C, before this thread came
            self.prepare(options)
        _, lent = self._prepared[id(options)]
        finished = False
        try:
            self._run_on(lent, call)
            finished = True
        finally:
            self._end(options, finished)

    def _run_on(self, lent, call):
        table = FunctionTable()
        options = call.options
        memory = CallMemory(
            options.max_nbytes,
            options.mmap_mode,
            options.temp_folder,
            makes_patches=False,  # it is open which worker gets a task
        )
        call.source.capture = Capture(table, None, _explain, memory)
        try:
            Dispatcher(call, lent.pool, table, lent.replace).run()
        finally:
            memory.close()

    def _end(self, options, finished):
        """Let go of the pool of a call that is over.

        Only then it is forgotten: after Ctrl-C in here, `abandon` comes.
        """
        _, lent = self._prepared[id(options)]
        if not (finished and lent.pool.is_usable()):
            lent.pool.kill()
        elif lent.block is None:
            lent.pool.close()
        with stock.no_interrupt():
            if self._prepared.pop(id(options), None) and lent.block is not None:
                self._give_back(lent.block)

    def abandon(self, options):
        if id(options) in self._prepared:
            self._end(options, False)

    # ---- with-blocks ---------------------------------------------------------------

    def open(self, options):
        self._blocks.append(_Block())

    def close(self):
        block = self._own_block()
        if block is None:
            if not self._blocks:
                return
            block = self._blocks[-1]  # left in another thread than entered
        with self._lock:
            self._blocks.remove(block)
            block.closed = True
            if block.in_use:
                return  # the generator that runs closes it
        block.close()

    def _own_block(self):
        """Return the innermost block that this thread has opened, or None.

        The backend is shared: other threads have blocks and calls of their own.
        """
        for block in reversed(self._blocks):
            if block.thread == threading.get_ident():
                return block
        return None

    def _claim_block(self):
        """Return this thread's block if no call uses it, marked as used, or None."""
        block = self._own_block()
        with self._lock:
            if block is None or block.in_use:
                return None  # in use: a generator of the block still runs
            block.in_use = True
            return block

    def _give_back(self, block):
        with self._lock:
            block.in_use = False
            if not block.closed:
                return
        block.close()

    # ---- what workers need --------------------------------------------------------

    def _pool_arguments(self, options):
        n_threads = options.inner_max_num_threads
        variables = THREAD_VARIABLES
        if n_threads is None:
            n_threads = max(cpu_count() // options.n_jobs, 1)
            # What the user set himself stays as it is.
            variables = tuple(name for name in variables if name not in os.environ)
        return (
            self._context(),
            options.n_jobs,
            options.nesting_level,
            n_threads,
            variables,
        )

    def _context(self):
        if self._given is not None:
            return self._given.get_context()
        methods = multiprocessing.get_all_start_methods()
        for variable in START_METHOD_VARIABLES:
            method = os.environ.get(variable, "").strip()
            if not method:
                continue
            if method == "exec":  # what the processes backend calls it
                method = "spawn"
            if method not in methods:
                raise ValueError(
                    f"{variable}={method!r} is no start method of this platform: "
                    f"expected one of {', '.join(map(repr, methods))}"
                )
            return multiprocessing.get_context(method)
        return multiprocessing.get_context(None if sys.platform == "win32" else "fork")


class _Lent:
    """The pool that a call has, which it may lose."""

    def __init__(self, pool, arguments, block):
        self.pool = pool
        self.arguments = arguments
        self.block = block

    def replace(self):
        """Start a new pool instead of one that lost a worker; returns it."""
        self.pool.kill()
        with no_interrupt():
            self.pool = start(*self.arguments)
            if self.block is not None:
                self.block.pool = self.pool
        return self.pool


class _Block:
    """A with-block of `Parallel` and the pool that its calls share."""

    def __init__(self):
        self.thread = threading.get_ident()
        self.pool = None
        self.arguments = None
        self.in_use = False
        self.closed = False

    def take(self, arguments):
        """Return the pool if it lives and is what a call needs, else None."""
        pool = self.pool
        if pool is None:
            return None
        if arguments == self.arguments and pool.is_usable():
            return pool
        self.pool = None
        pool.kill()
        return None

    def close(self):
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.close()


def _explain(*failed):
    from cypar.transport.culprit import explain  # needed only after a failure

    return explain(*failed)
