"""Calls without a backend, for tests of the compiled core."""

import contextvars
import time

import pytest

from cypar import delayed
from cypar.backends.base import CallOptions
from cypar.core._task_queue import LIST, Call

DEADLINE_S = 10.0


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
    """Return a function: a call whose tasks are all drawn; only outcomes are missing."""

    def make(n, mode=LIST, **options):
        call = make_call([delayed(abs)(i) for i in range(n)], mode, **options)
        call.source.draw(n + 1)
        return call

    return make


@pytest.fixture(scope="session")
def until():
    """Return a function that waits for a condition that another thread brings about.

    Only for what no event can tell: that a thread has parked or ended.
    """

    def wait(condition):
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, "the condition never came true"
            time.sleep(0.001)

    return wait
