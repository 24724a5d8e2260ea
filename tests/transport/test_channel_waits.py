"""transport/_channel: how a wait for a frame goes on, and how it ends."""

import os
import queue
import signal

import pytest

from cypar.transport._channel import socketpair

BUFFER_BYTES = 1 << 16
HEADER_BYTES = 24


# ---- the worker's side waits ---------------------------------------------------


def test_frames_in_the_buffer_need_no_wait(pair):
    parent, worker = pair
    for kind in range(3):
        parent.send(kind, 0, 0, 0, 0.0, b"abc")
    assert worker.receive_ready() is None  # it has not looked yet
    assert worker.receive()[0] == 0
    assert [worker.receive_ready()[0] for _ in range(2)] == [1, 2]
    assert worker.receive_ready() is None


@pytest.mark.parametrize("size", [0, 1_000_000], ids=["header", "payload"])
def test_a_signal_does_not_end_a_wait(pair, size, flush, thread):
    parent, worker = pair
    seen = queue.SimpleQueue()  # signals may interrupt the handler
    payload = bytes(size)

    def send():
        if size:
            parent.send(9, 0, 0, 0, 0.0, payload)  # only the first part of it
        for _ in range(5):
            seen.get()
        if not size:
            parent.send(9)
        flush(parent)

    before = signal.signal(signal.SIGALRM, lambda signum, frame: seen.put(signum))
    sender = thread(send)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        received = [worker.receive()]
        while received[-1] is None:
            received.append(worker.receive())
    finally:
        sender.wait()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert received == [(9, 0, 0, 0, 0.0, payload)]


def test_ctrl_c_ends_a_wait(pair):
    _, worker = pair

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        with pytest.raises(KeyboardInterrupt):
            worker.receive()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- the end -------------------------------------------------------------------


@pytest.mark.parametrize("reader", [0, 1], ids=["parent", "worker"])
def test_what_was_sent_is_read_before_the_end(pair, reader, receive):
    receiver, sender = pair[reader], pair[1 - reader]
    sender.send(1, 0, 0, 0, 0.0, b"abc")
    sender.send(2)
    sender.close()
    assert [receive(receiver)[0] for _ in range(2)] == [1, 2]
    with pytest.raises(EOFError, match="other side of the channel is gone"):
        receive(receiver)


@pytest.mark.parametrize("reader", [0, 1], ids=["parent", "worker"])
@pytest.mark.parametrize("size", [10, 3 * BUFFER_BYTES])
@pytest.mark.parametrize("missing", [1, 5, "all but the header", "in the header"])
def test_an_end_in_the_middle_of_a_frame_is_an_end(
    pair, reader, size, missing, make_pair, receive, thread
):
    receiver, end = pair[reader], pair[1 - reader]
    other, sink = make_pair()
    writer = thread(sink.send, 1, 0, 0, 0, 0.0, bytes(size))
    data = b""
    while len(data) < HEADER_BYTES + size:
        data += os.read(other.fd, 1 << 20)
    writer.wait()
    cut = {"all but the header": HEADER_BYTES, "in the header": 7}
    kept = data[: cut.get(missing) or len(data) - missing]

    def write_and_end():
        left = memoryview(kept)
        while left:
            left = left[os.write(end.fd, left) :]
        end.close()

    writer = thread(write_and_end)
    with pytest.raises(EOFError):
        receive(receiver)
    writer.wait()
    other.close()
    sink.close()


@pytest.mark.parametrize("sender", [0, 1], ids=["parent", "worker"])
@pytest.mark.parametrize("size", [0, 1_000_000])
def test_a_closed_peer_is_a_broken_pipe(pair, sender, size):
    pair[1 - sender].close()
    with pytest.raises(BrokenPipeError, match="other side of the channel is gone"):
        pair[sender].send(1, 0, 0, 0, 0.0, bytes(size))


def test_a_peer_that_closes_breaks_what_is_queued(pair):
    parent, worker = pair
    parent.send(1, 0, 0, 0, 0.0, bytes(1_000_000))
    worker.close()
    parent.send(2)  # behind the first one
    with pytest.raises(BrokenPipeError):
        parent.send_queued()


def test_close_may_be_repeated_and_forgets_what_was_queued(pair):
    parent, _ = pair
    parent.send(1, 0, 0, 0, 0.0, bytes(1_000_000))
    for _ in range(2):
        parent.close()
    assert (parent.fd, parent.outgoing_bytes) == (-1, 0)
    with pytest.raises(EOFError):
        parent.receive()
    with pytest.raises(BrokenPipeError):
        parent.send(1)


def test_a_dropped_channel_closes_its_socket(make_pair):
    parent, worker = make_pair()
    fd = worker.fd
    del worker
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    parent.close()


def test_sockets_are_not_inherited():
    fds = socketpair()
    assert not any(map(os.get_inheritable, fds))
    for fd in fds:
        os.close(fd)
