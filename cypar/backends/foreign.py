"""Run on backends that were written for the reference interface or for joblib.

`ForeignBackend` drives any object with the methods that joblib documents, whatever it
inherits from. What counts is what the object has:

    effective_n_jobs(n_jobs), configure(n_jobs=, parallel=, ...), terminate()
    submit(func, callback) with retrieve_result_callback(out), or
    apply_async(func, callback), whose result may have get(), ready() or done()
    start_call(), stop_call(), retrieval_context(), abort_everything(ensure_ready=)
    compute_batch_size(), batch_completed(batch_size, duration)
    get_nested_backend() -> (backend, n_jobs), backend or None

The object never sees `Parallel`: its ``parallel`` is a `Facade`. An error of its own
methods becomes the error of the call.
"""

from __future__ import annotations

import warnings

from cypar.backends.base import Backend, CallOptions
from cypar.backends.drive import Driver
from cypar.backends.executors import ExecutorAdapter
from cypar.backends.protocol import CallPort
from cypar.backends.remote_tasks import dump_task
from cypar.backends.sessions import Session
from cypar.core import config_state
from cypar.core.cpu import effective_n_jobs
from cypar.core.errors import CyparWarning

__all__ = ["ExecutorAdapter", "ForeignBackend"]


class ForeignBackend(Backend):
    """Drives one object of the user's.

    Parameters
    ----------
    obj : object
        See the top of this file.
    """

    is_foreign = True

    def __init__(self, obj):
        self.obj = obj
        self.name = self.label = type(obj).__name__

        def flag(name):
            return bool(getattr(obj, name, False))

        self.supports_sharedmem = flag("supports_sharedmem")
        self.uses_threads = flag("uses_threads") or self.supports_sharedmem
        self.supports_timeout = flag("supports_timeout")
        self.supports_inner_max_num_threads = flag("supports_inner_max_num_threads")
        self.default_n_jobs = getattr(obj, "default_n_jobs", 1)
        self._blocks = []  # sessions of with-blocks that are open
        self._prepared = {}  # id(options) -> (options, session, context)

    def effective_n_jobs(self, n_jobs):
        method = getattr(self.obj, "effective_n_jobs", None)
        if method is None:
            return effective_n_jobs(n_jobs)
        try:
            value = method(n_jobs)
        except Exception:
            value = self._ask_configured(n_jobs)
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise TypeError(
                f"{self.name}.effective_n_jobs({n_jobs}) returned {value!r:.200}, "
                "expected a number of jobs"
            ) from None
        if number < 1:
            raise RuntimeError(
                f"{self.name} has no worker: effective_n_jobs({n_jobs}) is {value!r}"
            )
        return number

    def _ask_configured(self, n_jobs):
        """Ask again while the object is configured: some cannot tell before."""
        session = Session.of(self.obj)
        session.enter(CallOptions(n_jobs))
        try:
            return session.target.effective_n_jobs(n_jobs)
        finally:
            session.leave()

    # ---- with-block ---------------------------------------------------------------

    def open(self, options):
        session = Session.of(self.obj)
        session.enter(options)
        self._blocks.append(session)

    def close(self):
        self._blocks.pop().leave()

    # ---- one call -----------------------------------------------------------------

    def prepare(self, options):
        """Configure the object, in the caller's thread: it may start processes."""
        session = Session.of(self.obj)
        session.enter(options)
        context = config_state.caller_context()
        self._prepared[id(options)] = (options, session, context)

    def run(self, call):
        if id(call.options) not in self._prepared:
            self.prepare(call.options)
        _, session, context = self._prepared.pop(id(call.options))
        failure = None
        started = False
        try:
            session.start_call(call)
            started = True
            self._drive(call, session, context)
        except BaseException as exc:
            call.stop("abort")
            failure = exc
        try:
            steps = [session.leave]
            if started:
                steps.insert(0, lambda: session.stop_call(call))
            if call.stopping:
                steps.insert(0, lambda: session.abort(call))
            for step in steps:
                try:
                    step()
                except BaseException as exc:
                    failure = self._another(failure, exc, call)
            if failure is not None:
                raise failure
        finally:
            failure = None  # no cycle from its traceback to this frame and back

    def _drive(self, call, session, context):
        target = session.target
        if isinstance(target, Backend):  # the object fell back to one of cypar's
            target.prepare(call.options)
            target.run(call)
            return
        port = CallPort(target, call, context)
        if port.pickles_late:
            call.source.capture = dump_task
        with session.retrieval_context():
            Driver(call, port).run()

    def _another(self, failure, exc, call):
        """Return the failure to raise; the one that was first, if there was one."""
        first = failure or call.outcomes.first_error()
        if first is None or not isinstance(exc, Exception):
            return exc
        warnings.warn(
            f"{self.name} failed with {type(exc).__name__}: {exc} while a call ended "
            f"that had failed before, with {type(first).__name__}",
            CyparWarning,
            stacklevel=2,
        )
        return failure
