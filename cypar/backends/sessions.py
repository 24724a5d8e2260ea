"""The time between configure() and terminate() of a foreign object.

One object may be used by several calls and with-blocks at once: by threads, by a
generator that is still read, by loops inside of a block. They share one `Session`:
whoever comes first configures the object, whoever leaves last terminates it.
"""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext

from cypar.backends.base import Backend
from cypar.backends.facade import Facade
from cypar.backends.protocol import accepted, has_own_method
from cypar.core.errors import CyparError

MAX_FALLBACKS = 10


class Session:
    """One object in use.

    Attributes
    ----------
    target : object
        What runs the tasks: the object, or what it fell back to.

    Thread safety: ``lock`` is held while methods of the object run that change it.
    """

    def __init__(self, obj):
        self.obj = obj
        self.target = obj
        self.users = 0  # calls and with-blocks; guarded by the lock of all sessions
        self.calls = []  # that run
        self.ready = False
        self.ending = False  # the object aborts or terminates
        self.lock = threading.RLock()

    @staticmethod
    def of(obj):
        """Return the session of an object, with one user more."""
        with _lock:
            session = _sessions.get(id(obj))
            if session is None:
                session = _sessions[id(obj)] = Session(obj)
            session.users += 1
            return session

    def enter(self, options):
        """Configure the object, if it is not yet."""
        if self.ending and options.nesting_level > 1:
            # the object may wait for the very task that asks: so that must not wait
            with _lock:
                self.users -= 1
            raise CyparError(
                "the call that this task belongs to has ended: its backend takes no "
                "nested calls any more"
            )
        try:
            with self.lock:
                if not self.ready:
                    self._configure(options)
                    self.ready = True
        except BaseException:
            self.leave()
            raise

    def leave(self):
        """Terminate the object, if nobody else uses it."""
        with self.lock:
            with _lock:
                self.users -= 1
                if self.users:
                    return
            try:
                if self.ready:
                    self.ready = False
                    self.ending = True
                    self._invoke("terminate")
            finally:
                self.ending = False
                with _lock:  # somebody may have come meanwhile, and waits
                    if not self.users and _sessions.get(id(self.obj)) is self:
                        del _sessions[id(self.obj)]

    def _configure(self, options):
        """Configure the object, or what it falls back to.

        joblib's backends say so by an exception that has the other one as ``backend``.
        """
        self.target = self.obj
        for _ in range(MAX_FALLBACKS):
            facade = Facade(self.target, options)
            try:
                self._invoke(
                    "configure",
                    n_jobs=options.n_jobs,
                    parallel=facade,
                    **facade._backend_kwargs,
                )
                return
            except Exception as exc:
                fallback = getattr(exc, "backend", None)
                if not callable(getattr(fallback, "effective_n_jobs", None)):
                    raise
                self.target = fallback
        raise RuntimeError(
            f"{type(self.obj).__name__} fell back to other backends {MAX_FALLBACKS} "
            "times: one of them should configure itself"
        )

    def _invoke(self, name, **arguments):
        """Call a method of the target that it may have."""
        method = getattr(self.target, name, None)
        if method is not None and not isinstance(self.target, Backend):
            method(**accepted(method, arguments))

    # ---- calls ---------------------------------------------------------------------

    def start_call(self, call):
        """Tell the object that a call begins."""
        with self.lock:
            if not self.calls:
                self._invoke("start_call")
            self.calls.append(call)

    def stop_call(self, call):
        """Tell the object that no call runs any more."""
        with self.lock:
            self.calls.remove(call)
            if not self.calls:
                self._invoke("stop_call")

    def retrieval_context(self):
        """Return the context manager to wait for results in."""
        method = getattr(self.target, "retrieval_context", None)
        return nullcontext() if method is None else method()

    def abort(self, call):
        """Cancel what runs. That ends other calls on the same object, too."""
        with self.lock:
            if not has_own_method(self.target, "abort_everything"):
                return
            self.ending = True
            try:
                self._invoke("abort_everything", ensure_ready=self.users > 1)
            finally:
                self.ending = False
                for other in self.calls:
                    if other is not call and not other.stopping:
                        name = type(self.obj).__name__
                        other.fail(
                            CyparError(
                                f"another call has failed on the same {name} object, "
                                "which has aborted the tasks of both: give each call "
                                "an object of its own"
                            )
                        )


_sessions = {}  # by id of the object, which the session keeps alive
_lock = threading.Lock()


def _forget():
    """In a forked child: what the parent's objects run on does not exist here."""
    global _lock
    _lock = threading.Lock()
    _sessions.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
