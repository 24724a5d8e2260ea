"""Which methods of a foreign object to call, and how, in the course of one call."""

from __future__ import annotations

import inspect

from cypar.backends import registry
from cypar.backends.drive import SILENT, Port
from cypar.backends.remote_tasks import Nested

# Backends of joblib's, and what is derived from them, that pickle tasks in a thread of
# their own: tasks are pickled before, for the iterator may change what they hold.
LATE_PICKLERS = ("LokyBackend", "MultiprocessingBackend")
# What joblib's own nested backends are called here.
NESTED_NAMES = {"SequentialBackend": "sequential", "ThreadingBackend": "threading"}


class CallPort(Port):
    """A foreign object, as the driver of one call sees it.

    Parameters
    ----------
    obj : object
    call : Call
    context : contextvars.Context
        Of the caller.
    """

    def __init__(self, obj, call, context):
        self.obj = obj
        self.inline = is_inline(obj)
        self.pickles_late = any(
            cls.__name__ in LATE_PICKLERS and cls.__module__.startswith("joblib.")
            for cls in type(obj).__mro__
        )
        if self.inline:
            self.context = context
            return
        self.context = call.task_context
        self.nested = find_nested(obj, call.options.nesting_level)
        self.takes_callback = self._takes_callback()
        self._submit = self._find_submit()

    def _takes_callback(self):
        """Whether the callback's argument is what gives the results."""
        flag = getattr(self.obj, "supports_retrieve_callback", None)
        own = has_own_method(self.obj, "retrieve_result_callback")
        if flag and not own:
            raise TypeError(
                f"{type(self.obj).__name__} has supports_retrieve_callback = True and "
                "no method retrieve_result_callback(out), which must return the "
                "results: define it, or leave the flag out"
            )
        if flag is None:
            return own and has_own_method(self.obj, "submit")
        return bool(flag)

    def _find_submit(self):
        # The base classes have both names, and warn where only one is meant.
        order = ("submit", "apply_async")
        for name in order if self.takes_callback else reversed(order):
            if has_own_method(self.obj, name):
                return getattr(self.obj, name)
        raise NotImplementedError(
            f"{type(self.obj).__name__} must define submit(func, callback) or "
            "apply_async(func, callback)"
        )

    # ---- what the driver asks for ---------------------------------------------------

    def submit(self, batch, callback):
        if self.inline:
            callback(batch())
            return None
        return self._submit(batch, callback)

    def retrieve(self, job, out):
        if self.inline:
            return out
        if self.takes_callback:
            return self.obj.retrieve_result_callback(out)
        if has_own_method(self.obj, "retrieve_result"):
            return self.obj.retrieve_result(job)
        return _results_of(job, out)

    def is_done(self, job):
        if self.inline or self.takes_callback:
            return False  # the callback is the promise
        for name in ("ready", "done"):
            method = getattr(job, name, None)
            if callable(method):
                return bool(method())
        if callable(getattr(job, "get", None)) or (
            job is not None and has_own_method(self.obj, "retrieve_result")
        ):
            return None
        return False

    def next_size(self):
        method = getattr(self.obj, "compute_batch_size", None)
        return 1 if method is None or self.inline else method()

    def completed(self, n_tasks, seconds):
        method = getattr(self.obj, "batch_completed", None)
        if method is not None and not self.inline:
            method(n_tasks, seconds)


def _results_of(job, out):
    """Return what an old backend gave: its job knows, or else the callback was told."""
    for source in (job, None if out is SILENT else out):
        if isinstance(source, (list, tuple, dict)):
            continue
        for name in ("get", "result"):
            method = getattr(source, name, None)
            if callable(method):
                return method()
    result = job if out is SILENT or out is None else out
    if isinstance(result, BaseException):
        raise result
    return result


def find_nested(obj, level):
    """Return the `Nested` that a foreign object wants for its tasks."""
    if not has_own_method(obj, "get_nested_backend"):
        return Nested(level)
    nested = obj.get_nested_backend()
    backend, n_jobs = nested if isinstance(nested, tuple) else (nested, None)
    cls = type(backend)
    if cls.__module__.startswith("joblib.") and cls.__name__ in NESTED_NAMES:
        return Nested(level, NESTED_NAMES[cls.__name__], n_jobs)
    for name, factory in registry.BACKENDS.items():
        if backend is not None and getattr(factory, "instance", None) is backend:
            backend = name  # cypar's own ones are found again in any process
            break
    return Nested(level, backend, n_jobs)


def is_inline(obj):
    """Whether a backend only stands for a loop in the caller: joblib's does."""
    cls = type(obj)
    return cls.__name__ == "SequentialBackend" and cls.__module__.startswith("joblib.")


def has_own_method(obj, name):
    """Whether an object has a method that a base class for backends did not give it."""
    return callable(getattr(obj, name, None)) and not is_base_method(obj, name)


def is_base_method(obj, name):
    """Whether a method is only inherited from a class ParallelBackendBase."""
    if name in getattr(obj, "__dict__", ()):
        return False
    for cls in type(obj).__mro__:
        if name in vars(cls):
            return cls.__name__ == "ParallelBackendBase"
    return False


def accepted(method, arguments):
    """Return those keyword arguments that a method takes."""
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):  # written in C
        return arguments
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return arguments
    names = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
    return {name: value for name, value in arguments.items() if name in names}
