"""Hand back results as they come: generators over the outcomes of a call.

A pump (a helper thread) runs the backend while the consumer reads. Finished results
that nobody has read are bounded; see `cypar.core._task_queue`.
"""

from __future__ import annotations

import os
import warnings
from _thread import allocate_lock, get_ident

from cypar.core import _helper_threads
from cypar.core._task_queue import as_task
from cypar.core._worker_loop import call_serial
from cypar.core.errors import CyparWarning, attach_completed, label

# After the last result the backend gives its workers back, so that the next call finds
# them. A bound, since a thread that is late for its timeout may hold it up.
END_S = 0.1


class ResultGenerator:
    """Iterator over the results of a running call.

    Closing it, or dropping the last reference, stops the call.
    """

    _over = True  # until the pump runs there is nothing to end

    def __init__(self, call, backend, on_end):
        self._call = call
        self._on_end = on_end
        self._pid = os.getpid()
        self._pump = _Pump(call, backend)
        _helper_threads.run(self._pump)
        self._over = False

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
        except BaseException as error:  # Ctrl-C while waiting
            attach_completed(error, self._call.outcomes.completed())
            self.close()
            raise
        error = self._call.outcomes.take_error()
        if error is None:
            self._pump.wait(END_S)
            self._end()
            raise StopIteration
        if isinstance(error, StopIteration):  # it would pass for the end
            error = _no_end(error)
        attach_completed(error, self._call.outcomes.completed())
        self._end()
        try:
            raise error
        finally:
            error = None  # no cycle from the traceback to this frame and back

    def _end(self):
        self._over = True
        self._pump.wait_if_foreign()
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


def _no_end(cause):
    error = RuntimeError("a task raised StopIteration")
    error.__cause__ = cause
    label(
        error,
        getattr(cause, "task_index", None),
        getattr(cause, "task_function", None),
        getattr(cause, "task_arguments", None),
    )
    return error


class _Pump:
    """What the helper thread runs; it keeps the call alive, not the generator."""

    def __init__(self, call, backend):
        self.call = call
        self.backend = backend
        self.thread = None
        self.running = allocate_lock()
        self.running.acquire()

    def wait_if_foreign(self):
        """Wait until a backend of the user's is through: calls on it never overlap."""
        if getattr(self.backend, "is_foreign", False):
            self.wait(-1)

    def wait(self, timeout_s):
        """Wait until the backend is through, -1 for as long as it takes."""
        if self.thread != get_ident() and self.running.acquire(timeout=timeout_s):
            self.running.release()

    def __call__(self, parker):
        self.thread = get_ident()
        try:
            self.backend.run(self.call)
        except BaseException as exc:
            self.call.fail(exc)
        finally:
            self.call.finish()
            self.running.release()


class SerialCall:
    """A loop of ``n_jobs=1`` that runs: what there is to count.

    Attributes
    ----------
    results : list
        Of the tasks that are finished.
    ended : bool
        Every task was drawn and is finished.
    """

    def __init__(self):
        self.results = []
        self.n_delivered = 0
        self.ended = False

    @property
    def n_finished(self):
        """Number of finished tasks."""
        return self.n_delivered + len(self.results)


class SerialGenerator:
    """Iterator over the results of ``n_jobs=1``, each computed when it is asked for."""

    def __init__(self, call, iterator, hook, on_end, keep_errors=False):
        self._call = call
        self._iterator = iterator
        self._hook = hook
        self._on_end = on_end
        self._keep_errors = keep_errors

    def __iter__(self):
        return self

    def __next__(self):
        if self._on_end is None:
            raise StopIteration
        try:
            item = next(self._iterator, self)
            if item is self:
                self._call.ended = True
                raise StopIteration
            task = as_task(item)
            try:
                value = call_serial(task, self._call.n_delivered, self._keep_errors)
            except StopIteration as exc:  # it would pass for the end
                raise _no_end(exc) from exc
            self._call.n_delivered += 1
            if self._hook is not None:
                self._hook()
        except BaseException as exc:  # StopIteration too
            self.close()
            if type(exc) is not StopIteration:
                attach_completed(exc, ())  # all results were given to the consumer
            raise
        return value

    def close(self):
        """End the loop; tasks that were not asked for never run."""
        if self._on_end is not None:
            on_end, self._on_end = self._on_end, None
            self._iterator = None
            on_end(self._call)

    def __del__(self):
        self.close()
