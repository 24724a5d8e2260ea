"""transport/_channel: frames over a socket, and neither side ever waits for ever."""

import itertools
import os
import select

import pytest
from hypothesis import given
from hypothesis import strategies as st

BUFFER_BYTES = 1 << 16
JOIN_BYTES = 1 << 14
HEADER_BYTES = 24

SIZES = [
    0,
    1,
    100,
    JOIN_BYTES - 1,
    JOIN_BYTES,
    JOIN_BYTES + 1,
    BUFFER_BYTES - HEADER_BYTES - 1,
    BUFFER_BYTES - HEADER_BYTES,
    BUFFER_BYTES - HEADER_BYTES + 1,
    BUFFER_BYTES,
    3 * BUFFER_BYTES + 7,
    5_000_000,
]


def payload_of(size, seed=0):
    period = bytes((i * 7 + seed) % 251 for i in range(251))
    return (period * (size // 251 + 1))[:size]


# ---- frames --------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_of_any_size_gets_to_the_worker(pair, size, flush, thread):
    parent, worker = pair
    reader = thread(worker.receive)
    payload = payload_of(size)
    parent.send(3, 1, 65535, 2**32 - 1, 0.25, payload)
    flush(parent)
    *head, received = reader.wait()
    assert head == [3, 1, 65535, 2**32 - 1, 0.25]
    assert received == payload
    assert parent.outgoing_bytes == 0


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_of_any_size_gets_to_the_parent(pair, size, receive, thread):
    parent, worker = pair
    payload = payload_of(size)
    writer = thread(worker.send, 18, 0, 5, 7, 1.5, payload)
    assert receive(parent) == (18, 0, 5, 7, 1.5, payload)
    writer.wait()


def test_a_frame_may_be_a_type_alone(pair):
    parent, worker = pair
    worker.send(17)
    assert parent.receive() == (17, 0, 0, 0, 0.0, b"")


@pytest.mark.parametrize("sizes", [(3, 0, 5), (JOIN_BYTES, 1), (1, 100_000, 2)])
def test_parts_are_joined(pair, sizes, thread, receive):
    parent, worker = pair
    parts = [payload_of(size, seed) for seed, size in enumerate(sizes)]
    reader = thread(receive, parent)
    worker.send(4, 0, 0, 0, 0.0, *parts)
    assert reader.wait()[-1] == b"".join(parts)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [10, 100_000])
def test_parts_may_be_bytes_of_any_kind(pair, kind, size, thread, receive):
    parent, worker = pair
    payload = payload_of(size)
    reader = thread(receive, parent)
    worker.send(4, 0, 0, 0, 0.0, kind(payload))
    assert reader.wait()[-1] == payload


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ((1, 0, 0, 2**32), OverflowError),
        ((1, 0, 0, -1), OverflowError),
        ((1, 0, 0, 0, "soon"), TypeError),
        ((1, 0, 0, 0, 0.0, "text"), TypeError),
        ((1, 0, 0, 0, 0.0, 5), TypeError),
    ],
    ids=repr,
)
def test_what_does_not_fit_into_a_frame_is_refused(pair, arguments, kind):
    parent, worker = pair
    with pytest.raises(kind):
        worker.send(*arguments)
    worker.send(17)  # and nothing of it was sent
    assert parent.receive()[0] == 17


frame_sizes = st.one_of(
    st.integers(0, 200),
    st.integers(JOIN_BYTES - 30, JOIN_BYTES + 30),
    st.integers(BUFFER_BYTES - 60, BUFFER_BYTES + 60),
    st.integers(0, 300_000),
)


@given(
    frames=st.lists(
        st.tuples(st.integers(0, 255), st.integers(0, 2**32 - 1), frame_sizes),
        max_size=25,
    ),
    to_parent=st.booleans(),
)
def test_any_sequence_of_frames_arrives_in_order(
    frames, to_parent, make_pair, receive, flush, thread
):
    parent, worker = make_pair()
    sender, receiver = (worker, parent) if to_parent else (parent, worker)

    def read_all():
        return [receive(receiver) for _ in frames]

    reader = thread(read_all)
    for i, (kind, number, size) in enumerate(frames):
        sender.send(kind, i % 2, i, number, i / 4, payload_of(size, i))
    flush(sender)
    assert reader.wait() == [
        (kind, i % 2, i, number, i / 4, payload_of(size, i))
        for i, (kind, number, size) in enumerate(frames)
    ]
    parent.close()
    worker.close()


@given(
    sizes=st.lists(st.integers(0, 3000), max_size=30),
    cuts=st.lists(st.integers(1, 5000), max_size=10),
)
def test_frames_may_arrive_in_any_pieces(sizes, cuts, make_pair):
    source, sink = make_pair()
    stream = b""
    expected = []
    for i, size in enumerate(sizes):
        source.send(i, 0, 0, 0, 0.0, payload_of(size, i))
        expected.append((i, 0, 0, 0, 0.0, payload_of(size, i)))
        while len(chunk := os.read(sink.fd, 1 << 20)) < HEADER_BYTES + size:
            stream += chunk
            size -= len(chunk)
        stream += chunk
    parent, worker = make_pair()
    received = []
    sizes_of_pieces = itertools.cycle([*cuts, 5000])
    while stream:
        n = next(sizes_of_pieces)
        os.write(worker.fd, stream[:n])
        stream = stream[n:]
        while (frame := parent.receive()) is not None:
            received.append(frame)
    while (frame := parent.receive()) is not None:
        received.append(frame)
    assert received == expected
    for channel in (source, sink, parent, worker):
        channel.close()


# ---- the parent never waits ----------------------------------------------------


def test_nothing_is_received_where_nothing_was_sent(pair):
    parent, _ = pair
    assert parent.receive() is None
    assert parent.receive_ready() is None


def test_a_part_of_a_frame_is_no_frame(pair, make_pair, receive):
    parent, worker = pair
    other, sink = make_pair()
    other.send(1, 0, 0, 0, 0.0, b"abc")
    data = os.read(sink.fd, 100)
    for byte in data[:-1]:
        os.write(worker.fd, bytes([byte]))
        assert parent.receive() is None
        assert parent.receive() is None
    os.write(worker.fd, data[-1:])
    assert receive(parent) == (1, 0, 0, 0, 0.0, b"abc")
    other.close()
    sink.close()


def test_what_the_socket_does_not_take_is_queued(pair, flush, thread):
    parent, worker = pair
    payloads = [payload_of(1_000_000, i) for i in range(4)]
    for i, payload in enumerate(payloads):
        parent.send(i, 0, 0, 0, 0.0, payload)  # nobody reads, and it does not wait
    assert 3_000_000 < parent.outgoing_bytes < 4_000_100
    assert not parent.send_queued()
    reader = thread(lambda: [worker.receive() for _ in payloads])
    flush(parent)
    assert [frame[-1] for frame in reader.wait()] == payloads
    assert parent.outgoing_bytes == 0


def test_small_frames_wait_behind_a_queued_one(pair, flush, thread):
    parent, worker = pair
    parent.send(1, 0, 0, 0, 0.0, bytes(2_000_000))
    queued = parent.outgoing_bytes
    parent.send(2)
    assert parent.outgoing_bytes == queued + HEADER_BYTES
    reader = thread(lambda: [worker.receive()[0] for _ in range(2)])
    flush(parent)
    assert reader.wait() == [1, 2]


def test_two_sides_that_send_at_once_do_not_deadlock(pair, thread):
    parent, worker = pair
    down, up = payload_of(5_000_000, 1), payload_of(5_000_000, 2)

    def work():
        worker.send(1, 0, 0, 0, 0.0, up)  # waits until the parent reads
        return worker.receive()

    other = thread(work)
    parent.send(2, 0, 0, 0, 0.0, down)
    poll = select.poll()
    poll.register(parent.fd, select.POLLIN | select.POLLOUT)
    received = None
    while received is None or parent.outgoing_bytes:
        poll.poll()
        parent.send_queued()
        received = received or parent.receive()
    assert received[-1] == up
    assert other.wait()[-1] == down
