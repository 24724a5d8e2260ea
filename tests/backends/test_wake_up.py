"""A wake-up ends a poll from any thread, and is nothing once its loop is over."""

import os
import select
import threading

import pytest

from cypar.backends.wake_up import WakeUp


@pytest.fixture(params=["eventfd", "pipe"])
def wake_up(request, monkeypatch):
    if request.param == "pipe":
        monkeypatch.delattr(os, "eventfd", raising=False)
    elif not hasattr(os, "eventfd"):
        pytest.skip("this Python has no eventfd")
    wake_up = WakeUp()
    yield wake_up
    wake_up.close()


def is_rung(wake_up):
    poll = select.poll()
    poll.register(wake_up.fd, select.POLLIN)
    return bool(poll.poll(0))


def test_rings_until_it_is_cleared(wake_up):
    assert not is_rung(wake_up)
    for _ in range(3):
        wake_up.ring()
    assert is_rung(wake_up)
    wake_up.clear()
    assert not is_rung(wake_up)


def test_never_blocks(wake_up):
    for _ in range(70_000):  # more than a pipe holds
        wake_up.ring()
    assert is_rung(wake_up)


def test_a_late_ring_writes_nothing_to_another_file(wake_up):
    read, write = os.pipe()
    fd = wake_up._write_fd
    wake_up.close()
    os.dup2(write, fd)  # the number is another file's now
    try:
        os.set_blocking(read, False)
        wake_up.ring()
        with pytest.raises(BlockingIOError):
            os.read(read, 1)
    finally:
        for end in (read, write, fd):
            os.close(end)


def test_rings_from_many_threads_while_it_closes(in_threads):
    for _ in range(50):
        wake_up = WakeUp()
        start = threading.Barrier(3)

        def ring(wake_up=wake_up, start=start):
            start.wait(10)
            for _ in range(100):
                wake_up.ring()

        def close(wake_up=wake_up, start=start):
            start.wait(10)
            wake_up.close()

        in_threads(ring, ring, close)
        assert wake_up.fd == -1
