"""Hand back results as they come: generators over the outcomes of a call.

A pump (a helper thread) runs the backend while the consumer reads. Finished results
that nobody has read are bounded; see `cypar.core._task_queue`.
"""

from __future__ import annotations

import os
import warnings

from cypar.core import _helper_threads
from cypar.core._task_queue import as_task
from cypar.core.errors import CyparWarning


class ResultGenerator:
    """Iterator over the results of a running call.

    Closing it, or dropping the last reference, stops the call.
    """

    def __init__(self, call, backend, on_end):
        self._call = call
        self._on_end = on_end
        self._pid = os.getpid()
        self._over = False
        _helper_threads.run(_Pump(call, backend))

    def __iter__(self):
        return self

    def __next__(self):
        if self._over:
            raise StopIteration
        if os.getpid() != self._pid:
            raise RuntimeError(
                "this generator belongs to the process that made it: its workers do "
                "not exist in a forked child; read it in the parent"
            )
        try:
            return self._call.outcomes.take()
        except StopIteration:
            pass
        except BaseException:  # Ctrl-C while waiting
            self.close()
            raise
        error = self._call.outcomes.take_error()
        self._end()
        if error is None:
            raise StopIteration
        try:
            raise error
        finally:
            error = None  # no cycle from the traceback to this frame and back

    def _end(self):
        self._over = True
        self._on_end(self._call)

    def close(self):
        """Stop the call; results that were not read are dropped."""
        if not self._over:
            self._call.stop("abort")
            self._end()

    def __del__(self):
        if self._over or os.getpid() != self._pid:
            return
        if _helper_threads.is_shutting_down():
            self._call.stop("abort")
            return
        unfinished = not self._call.outcomes.done
        self.close()
        if unfinished:
            warnings.warn(
                "a generator of Parallel was dropped before its end: the tasks that "
                "had not run are cancelled",
                CyparWarning,
                stacklevel=2,
            )


class _Pump:
    """What the helper thread runs; it keeps the call alive, not the generator."""

    def __init__(self, call, backend):
        self.call = call
        self.backend = backend

    def __call__(self, parker):
        try:
            self.backend.run(self.call)
        except BaseException as exc:
            self.call.fail(exc)
        finally:
            self.call.finish()


def serial_results(parallel, iterator):
    """Yield the results of ``n_jobs=1`` one by one, computed on demand."""
    progress = parallel._has_progress()
    parallel._finished = 0
    for item in iterator:
        function, args, kwargs = as_task(item)
        value = function(*args, **kwargs)
        if progress:
            parallel._count_serial()
        yield value
        value = None
    if parallel._progress is not None:
        parallel._progress.finished(parallel._finished)
