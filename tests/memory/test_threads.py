"""Threads whose calls use the same memory at the same time: never wrong data."""

import itertools
import threading
import time

import numpy as np
import pytest

from cypar import Parallel, delayed, share
from cypar.core._buffers import buffer_address
from cypar.transport import copies, memory, segments
from cypar.transport.memory import CallMemory
from cypar.transport.segments import SLAB_PIECE, Arena, arena

M = 1 << 20


def ends(array):
    return float(array.min()), float(array.max())


def first(array):
    return float(array.flat[0])


WATCHED = {module.__file__ for module in (segments, copies, memory)}


def is_watched(frame):
    return frame.f_code.co_filename in WATCHED


def at_every_line(moment_at, make):
    """Let one action come between any two lines of another; returns how many there are.

    ``make()`` returns (action, other action, check); the other one has its own thread.
    """
    moment = None
    for k in itertools.count():
        if moment is not None and not moment.came:
            break
        action, other, check = make()

        def beside(other=other):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(30)
            assert not thread.is_alive()

        with moment_at(k, beside, is_watched) as moment:
            action()
        check()
    return k - 1


# ---- deterministic: another thread comes between any two lines ---


class Taker:
    """Takes room in an arena, writes there and looks whether it stays."""

    def __init__(self, own):
        self.own = own
        self.taken = []

    def take(self, n):
        content = bytes([len(self.taken) + 1]) * n
        pin, offset = self.own.take(n)
        pin.segment.write(offset, buffer_address(content)[0], n, False)
        self.taken.append((pin, offset, content))

    def give_back(self):
        self.taken = []

    def check(self):
        for pin, offset, content in self.taken:
            assert pin.segment.read(offset, len(content)) == content

    def act(self, name):
        if name == "trim":
            self.own.trim(0)
        else:
            self.take(1000 if name == "small" else 4 * SLAB_PIECE)


@pytest.mark.parametrize("max_bytes", [1 << 40, 3 * M], ids=["no cap", "over the cap"])
@pytest.mark.parametrize("other", ["small", "large", "trim"])
@pytest.mark.parametrize("action", ["small", "large", "trim"])
def test_no_room_is_given_out_twice(moment_at, action, other, max_bytes):
    takers = []

    def make():
        taker = Taker(Arena(max_bytes=max_bytes))
        takers.append(taker)
        for name in ("large", "small", "large"):
            taker.act(name)
        taker.give_back()  # two free segments, and one that small buffers share

        def check():
            taker.check()
            taker.give_back()
            taker.own.close()

        return lambda: taker.act(action), lambda: taker.act(other), check

    assert at_every_line(moment_at, make) > 5


def contents(parcel):
    return [segment.read(offset, n) for _, segment, _, offset, n in parcel.pieces]


@pytest.mark.parametrize("other", ["same", "different", "end of a call", "trim"])
@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("size", [700, 40_000, 700_000])
def test_a_copy_holds_what_it_should(fresh_arena, moment_at, size, mode, other):
    def make():
        array = np.full(size, 1.0)
        second = np.full(size, 2.0)
        calls = [CallMemory(1000, mode), CallMemory(1000, mode)]
        for call in calls:  # copies that nobody uses at the moment
            for _ in range(2):
                call.dumps([array])
        found = []

        def act():
            found.append((array, calls[0].dumps([array])[1]))

        def act_too():
            if other == "trim":
                arena.trim(0)
            elif other == "end of a call":
                calls[1].close()
            else:
                wanted = array if other == "same" else second
                found.append((wanted, calls[1].dumps([wanted])[1]))

        def check():
            for wanted, parcel in found:
                assert contents(parcel) == [wanted.tobytes()]
            for call in calls:
                call.close()

        return act, act_too, check

    assert at_every_line(moment_at, make) > 5


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("size", [700, 40_000, 700_000])
def test_ctrl_c_at_any_line_leaves_nothing_pinned(fresh_arena, moment_at, size, mode):
    array, other = np.full(size, 1.0), np.full(size, 2.0)
    for k in itertools.count():
        call = CallMemory(1000, mode)
        call.dumps([array])
        moment = moment_at(k, interrupt, is_watched)
        try:
            with moment:
                call.dumps([other, array])
                arena.trim(M)
        except KeyboardInterrupt:
            pass
        _, parcel = call.dumps([array, other])
        assert contents(parcel) == [array.tobytes(), other.tobytes()]
        del parcel
        call.close()
        assert all(segment.is_idle() for segment in arena.segments), k
        arena.trim(0)
        assert arena.segments == []
        if not moment.came:
            break
    assert k > 20


def test_a_copy_that_tasks_write_to_stays_until_the_end_of_the_call(fresh_arena):
    one, two = np.zeros(M // 2), np.zeros(M // 2)
    call = CallMemory(1000, "r+")

    def place(array):
        _, segment, number, offset, _ = call.dumps([array])[1].pieces[0]
        return segment.serial, number, offset

    assert [place(one), place(two)] * 3 == [place(one), place(two)] * 3
    call.close()
    assert all(segment.is_idle() for segment in arena.segments)


# ---- two calls with one array ---


def test_an_array_that_changed_before_two_calls_at_once(fresh_arena, in_threads):
    """The one that comes later must not rely on what the first has not yet compared."""
    array = np.ones(20 * M)
    place = array.size * 9 // 10
    run = Parallel(n_jobs=2)
    for i in range(6):
        run(delayed(first)(array) for _ in range(1))
        array[place] = i + 2

        def call(delay_s, expected=i + 2.0):
            time.sleep(delay_s)  # into the comparison of the other one
            out = Parallel(n_jobs=2)(delayed(ends)(array) for _ in range(1))
            assert out == [(1.0, expected)]

        in_threads(lambda: call(0), lambda: call(0.004))


def add_one(array, index):
    array[index] = 1
    return float(array[:10].sum())


@pytest.mark.parametrize("backend", ["processes", "multiprocessing"])
def test_what_tasks_write_stays_while_other_arrays_come(fresh_arena, backend):
    one, two = np.zeros(M // 2), np.zeros(M // 2)
    run = Parallel(
        n_jobs=2, backend=backend, mmap_mode="r+", pre_dispatch=1, batch_size=1
    )
    out = run(delayed(add_one)(array, i) for i in range(4) for array in (one, two))
    assert out == [1, 1, 2, 2, 3, 3, 4, 4]


def test_two_calls_whose_tasks_write_to_one_array(fresh_arena, in_threads):
    """Each call has a copy of its own, and keeps it."""
    array = np.zeros(M // 2)
    both = threading.Barrier(2)

    def tasks():
        for i in range(8):
            both.wait()
            yield delayed(add_one)(array, i)

    def call():
        return Parallel(n_jobs=2, mmap_mode="r+", pre_dispatch=1, batch_size=1)(tasks())

    assert in_threads(call, call) == [[float(i + 1) for i in range(8)]] * 2
    assert not array.any()


# ---- at random, with many switches ---


@pytest.mark.parametrize("cap", [None, 8 * M], ids=["no cap", "over the cap"])
@pytest.mark.parametrize("sizes", [(1000, 5000), (50_000, 200_000)], ids=str)
@pytest.mark.filterwarnings("ignore:no room for large arrays")
def test_own_arrays_in_four_threads(
    fresh_arena, frequent_switches, in_threads, sizes, cap
):
    fresh_arena.max_bytes = cap
    fresh_arena.max_idle_bytes = 2 * M

    def calls(thread):
        for k in range(12):
            values = [1e6 * thread + 100.0 * k + i for i in range(8)]
            run = Parallel(n_jobs=2, max_nbytes=1000)
            out = run(delayed(ends)(np.full(sizes[int(v) % 2], v)) for v in values)
            assert out == [(v, v) for v in values]

    in_threads(*(lambda t=t: calls(t) for t in range(4)))


def size_of(table):
    return len(table)


def test_shared_objects_that_come_and_go_in_four_threads(frequent_switches, in_threads):
    def calls(thread):
        for i in range(60):
            table = share({k: k for k in range(thread * 100 + i)})
            if i % 20 == 0:
                out = Parallel(n_jobs=2)(delayed(size_of)(table) for _ in range(2))
                assert out == [len(table)] * 2

    in_threads(*(lambda t=t: calls(t) for t in range(4)))
