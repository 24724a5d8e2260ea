"""Run on backends that were written for the reference interface or for joblib.

`ForeignBackend` drives any object that has `submit` with `retrieve_result_callback`,
or `apply_async`; everything else (configure, start_call, compute_batch_size, ...) is
used if it is there. Such an object never sees `Parallel`: its ``parallel`` is a
`Facade`. Executors are driven by `cypar.backends.executors`.
"""

from __future__ import annotations

import inspect
import sys
import uuid

from cypar.backends.base import Backend
from cypar.backends.drive import Driver
from cypar.backends.executors import ExecutorAdapter
from cypar.backends.remote_tasks import TaskBatch
from cypar.core.cpu import effective_n_jobs

__all__ = ["ExecutorAdapter", "Facade", "ForeignBackend"]


class Facade:
    """What a foreign backend gets as ``parallel``.

    Attributes
    ----------
    n_jobs : int
    verbose : int
    timeout : float or None
    return_generator : bool
    """

    def __init__(self, backend, options):
        self._backend = backend
        self._id = uuid.uuid4().hex
        self._backend_kwargs = {
            "max_nbytes": options.max_nbytes,
            "mmap_mode": options.mmap_mode,
            "temp_folder": options.temp_folder,
            "prefer": None,
            "require": None,
            "verbose": 0,
        }
        self.n_jobs = options.n_jobs
        self.verbose = 0
        self.timeout = options.timeout_s
        self.return_generator = False

    def _print(self, message, arguments=None):
        """Print a line for the user."""
        text = message % arguments if arguments else message
        print(f"[Parallel(n_jobs={self.n_jobs})]: {text}", file=sys.stderr)


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
        self.supports_sharedmem = bool(getattr(obj, "supports_sharedmem", False))
        self.uses_threads = bool(
            getattr(obj, "uses_threads", False) or self.supports_sharedmem
        )
        self.supports_timeout = bool(getattr(obj, "supports_timeout", False))
        self.supports_inner_max_num_threads = bool(
            getattr(obj, "supports_inner_max_num_threads", False)
        )
        self.default_n_jobs = getattr(obj, "default_n_jobs", 1)
        self._opened = False
        self._inline = False  # it fell back to a backend that runs in the caller

    def effective_n_jobs(self, n_jobs):
        method = getattr(self.obj, "effective_n_jobs", None)
        if method is None:
            return effective_n_jobs(n_jobs)
        return max(1, int(method(n_jobs)))

    # ---- with-block ---------------------------------------------------------------

    def open(self, options):
        self._configure(options)
        self._opened = True

    def close(self):
        self._opened = False
        self._call("terminate")

    # ---- one call -----------------------------------------------------------------

    def run(self, call):
        kept = self._opened
        if not kept:
            self._configure(call.options)
        try:
            self._call("start_call")
            try:
                self._run(call)
            except BaseException:
                call.stop("abort")
                raise
            finally:
                if call.stopping:
                    self._abort(kept)
                self._call("stop_call")
        finally:
            if not kept:
                self._call("terminate")

    def _run(self, call):
        size = completed = None
        if not call.options.batch_size:
            size = getattr(self.obj, "compute_batch_size", None)
            completed = getattr(self.obj, "batch_completed", None)
        submit, retrieve = self._protocol()
        Driver(
            call,
            submit,
            retrieve,
            self._nested(call.options),
            size,
            completed,
            None if self._inline else _is_ready,
        ).run()

    def _configure(self, options):
        """Configure the object, following it where it falls back to another one."""
        for _ in range(10):
            # joblib's sequential backend only stands for a loop in the caller
            self._inline = type(self.obj).__name__ == "SequentialBackend"
            if self._inline:
                return
            facade = Facade(self.obj, options)
            arguments = {
                "n_jobs": options.n_jobs,
                "parallel": facade,
                **facade._backend_kwargs,
            }
            try:
                self._call("configure", **arguments)
                return
            except Exception as exc:
                fallback = getattr(exc, "backend", None)
                if fallback is None:
                    raise
                self.obj = fallback
        raise RuntimeError(f"{self.label} falls back to other backends without end")

    def _protocol(self):
        """Return the functions that submit a batch and retrieve its results."""
        obj = self.obj
        if self._inline:
            return _run_inline, lambda job, out: job
        if getattr(obj, "supports_retrieve_callback", False):
            return obj.submit, lambda job, out: obj.retrieve_result_callback(out)
        # The base class of joblib has both names, and warns where only one is meant.
        submit = getattr(obj, "apply_async", None)
        if submit is None or _is_base_method(obj, "apply_async"):
            submit = obj.submit
        return submit, _retrieve_old

    def _nested(self, options):
        level = options.nesting_level
        method = getattr(self.obj, "get_nested_backend", None)
        if method is None or _is_base_method(self.obj, "get_nested_backend"):
            return (level, None, None)
        nested = method()
        if nested is None:
            return (level, None, None)
        backend, n_jobs = nested if isinstance(nested, tuple) else (nested, None)
        if backend is not None and type(backend).__module__.startswith("joblib."):
            backend = None  # joblib's own threads or loop: ours do the same
        return (level, backend, n_jobs)

    def _abort(self, kept):
        method = getattr(self.obj, "abort_everything", None)
        if method is None or self._inline:
            return
        if _accepts(method, "ensure_ready"):
            method(ensure_ready=kept)
        else:
            method()

    def _call(self, name, **arguments):
        method = getattr(self.obj, name, None)
        if method is None or self._inline:
            return
        method(**{k: v for k, v in arguments.items() if _accepts(method, k)})


def _run_inline(batch, callback):
    results = TaskBatch.__call__(batch)
    callback(results)
    return results


def _retrieve_old(job, out):
    """Retrieve what `apply_async` gave: the job knows, or the callback was told."""
    for source in (job, out):
        if callable(getattr(source, "get", None)) and not isinstance(source, dict):
            return source.get()
    result = job if out is None else out
    if callable(getattr(result, "result", None)):
        return result.result()
    if isinstance(result, BaseException):
        raise result
    return result


def _is_ready(job):
    """Whether a job is done although its callback has not come, as after an error."""
    for name in ("ready", "done"):
        method = getattr(job, name, None)
        if callable(method):
            return bool(method())
    return False


def _is_base_method(obj, name):
    """Whether a method is only inherited from a ParallelBackendBase."""
    for cls in type(obj).__mro__:
        if name in vars(cls):
            return cls.__name__ == "ParallelBackendBase"
    return False


def _accepts(method, name):
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)
