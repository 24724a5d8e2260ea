"""The arena never gives out memory that somebody still needs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cypar.core._buffers import buffer_address
from cypar.transport import segments
from cypar.transport.segments import SLAB_PIECE, Arena


class Twin:
    """An arena, beside a list of what it gave out and what was written there."""

    def __init__(self):
        self.arena = Arena(max_bytes=1 << 40)
        self.live = []  # (segment, offset, content)
        self.n_taken = 0

    def take(self, n):
        self.n_taken += 1
        content = self.n_taken.to_bytes(8, "little") * -(-n // 8)
        pin, offset = self.arena.take(n)
        pin.segment.write(offset, buffer_address(content)[0], n, False)
        self.live.append((pin, offset, content[:n]))

    def give_back(self, index):
        del self.live[index % len(self.live)]

    def check(self):
        for pin, offset, content in self.live:
            assert pin.segment.read(offset, len(content)) == content

    def close(self):
        self.live = []
        self.arena.close()


@pytest.fixture(scope="module", autouse=True)
def few_segments():
    """All buffers share segments as soon as there are three of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "MAX_SEGMENTS", 3)
        patch.setattr(segments, "LARGE_SLAB_BYTES", 4 << 20)
        yield


@pytest.fixture
def twin():
    twin = Twin()
    yield twin
    twin.close()


def test_a_shared_segment_that_was_taken_for_one_buffer_is_shared_no_more(twin):
    large = 4 * SLAB_PIECE
    twin.take(SLAB_PIECE)
    twin.give_back(0)
    twin.take(large)  # recycles the segment that small buffers share
    assert len(twin.arena.segments) == 1
    for _ in range(4):
        twin.take(large)
        twin.take(100)
        twin.check()


sizes = st.sampled_from([1, 1000, SLAB_PIECE, 4 * SLAB_PIECE])
steps = st.one_of(
    st.tuples(st.just("take"), sizes),
    st.tuples(st.just("give back"), st.integers(0, 3)),
    st.tuples(st.just("trim"), st.sampled_from([0, 1 << 20])),
)


@settings(max_examples=300)
@given(steps=st.lists(steps, min_size=10, max_size=60))
def test_what_is_pinned_keeps_its_content(steps):
    twin = Twin()
    try:
        for step, value in steps:
            if step == "take":
                twin.take(value)
            elif step == "trim":
                twin.arena.trim(value)
            elif twin.live:
                twin.give_back(value)
            twin.check()
    finally:
        twin.close()
