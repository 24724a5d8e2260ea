"""Calls without a backend and workers without a process, for the compiled core."""

import contextvars
import os
import pickle

import pytest

from cypar import delayed
from cypar.backends.base import CallOptions
from cypar.core._process_loop import BatchRunner
from cypar.core._status_page import StatusPage
from cypar.core._task_queue import LIST, Call


@pytest.fixture(scope="session")
def make_call():
    """Return a function that makes a Call over an iterable of tasks."""

    def make(
        tasks,
        mode=LIST,
        *,
        n_jobs=2,
        pre_dispatch=0,
        batch_size=1,
        timeout_s=None,
        **bounds,
    ):
        options = CallOptions(
            n_jobs,
            pre_dispatch=pre_dispatch,
            batch_size=batch_size,
            timeout_s=timeout_s,
        )
        context = contextvars.copy_context()
        call = Call(options, iter(tasks), mode, context, **bounds)
        call.task_context = context
        return call

    return make


@pytest.fixture(scope="session")
def started(make_call):
    """Return a function: a call whose tasks are drawn and have no outcome yet."""

    def make(n, mode=LIST, **options):
        call = make_call([delayed(abs)(i) for i in range(n)], mode, **options)
        call.source.draw(n + 1)
        return call

    return make


class Worker:
    """The worker's side of a status page: what a BatchRunner sends is recorded.

    Attributes
    ----------
    page : StatusPage
        The worker's own mapping.
    sent : list of tuple
        (slot, position, kind, data) that did not go through the result log.
    on_flush : callable
        What tells the parent that the log has news.
    """

    def __init__(self, parent):
        self.page = StatusPage(os.dup(parent.fd))
        self.page.close_fd()
        self.sent = []
        self.on_flush = int
        self.runner = BatchRunner(
            self.page, pickle.dumps, encode_error, self._flush, self._send
        )

    def _flush(self):
        self.on_flush()

    def _send(self, slot, position, kind, data, seconds, buffers):
        assert buffers is None  # plain pickle puts none aside
        self.sent.append((slot, position, kind, data))


def encode_error(exc, function, args, kwargs):
    return repr((exc, function, args, kwargs)).encode()


@pytest.fixture
def page():
    """The parent's side of a new status page."""
    page = StatusPage()
    yield page
    page.close_fd()


@pytest.fixture(scope="session")
def make_worker():
    """Return a function that makes the `Worker` of a page."""
    return Worker


@pytest.fixture
def worker(page, make_worker):
    return make_worker(page)
