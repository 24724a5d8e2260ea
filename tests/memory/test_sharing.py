"""`share`, and large arguments that are equal to those of the task before."""

import gc
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cypar
from cypar import Parallel, delayed, share
from cypar.backends.pool.supervisor import pool
from cypar.core._copying import common_ends
from cypar.core._snapshot import Snapshot, copy_plain
from cypar.transport import deltas, sharing
from cypar.transport.segments import arena


class Unloadable:
    """Holds large arrays, and cannot be loaded."""

    def __init__(self):
        self.array = np.ones(1 << 20)

    def __setstate__(self, state):
        raise ValueError("not here")


def test_a_shared_object_that_cannot_be_loaded():
    """Each task fails alike, and its memory is free in the end."""
    pool.shutdown()
    obj = share(Unloadable())
    run = Parallel(n_jobs=2, batch_size=1, on_error="return")
    out = run(delayed(len)(obj) for _ in range(6))
    assert {str(failed.exception) for failed in out} == {"not here"}
    del obj
    sharing.sweep()
    run(delayed(abs)(i) for i in range(2))  # workers hear of it
    assert not any(s.pins or s.is_leased() for s in arena.segments if s.entries)


class Counted:
    """Counts in each process how often it was pickled and loaded."""

    pickled = 0
    loaded = 0

    def __init__(self, content):
        self.content = content

    def __reduce__(self):
        type(self).pickled += 1
        return _load_counted, (self.content,)


def _load_counted(content):
    counted = Counted(content)
    import sys

    sys.loaded_by_test = getattr(sys, "loaded_by_test", 0) + 1
    return counted


def use(obj, i):
    import sys

    return obj.content[i], os.getpid(), id(obj), sys.loaded_by_test


def test_a_shared_object_is_pickled_once_and_loaded_once_per_worker():
    pool.shutdown()
    obj = share(Counted(list(range(100))))
    before = Counted.pickled
    with Parallel(n_jobs=2, batch_size=1) as run:
        out = []
        for _ in range(3):
            out += run(delayed(use)(obj, i) for i in range(20))
    assert [value for value, *_ in out] == list(range(20)) * 3
    assert Counted.pickled == before + 1
    for pid in {pid for _, pid, _, _ in out}:
        ids = {obj_id for _, p, obj_id, _ in out if p == pid}
        loads = {n for _, p, _, n in out if p == pid}
        assert (len(ids), loads) == (1, {1})


def test_share_returns_the_very_object_and_serves_all_backends(parallel):
    table = {i: str(i) for i in range(1000)}
    assert share(table) is table

    def get(mapping, key, *, extra):
        return mapping[key], type(mapping), extra[key]

    expected = [(str(i), dict, str(i)) for i in range(10)]
    assert (
        parallel()(delayed(get)(table, i, extra=table) for i in range(10)) == expected
    )
    for backend in ("threading", "sequential"):
        run = Parallel(n_jobs=2, backend=backend)
        assert run(delayed(get)(table, i, extra=table) for i in range(10)) == expected


def test_a_shared_array_is_mapped_and_never_compared(fresh_arena):
    array = share(np.ones(1 << 19))
    run = Parallel(n_jobs=2, batch_size=1)
    info = run(delayed(lambda a: (type(a), float(a.sum())))(array) for _ in range(8))
    assert info == [(np.memmap, 1 << 19)] * 8
    counters = fresh_arena.counters
    assert (counters.cold, counters.warm, counters.reused) == (1, 0, 0)


def test_shared_objects_are_forgotten_with_their_last_reference():
    sharing.sweep()
    before = len(sharing.shared)
    obj = share([1, 2, 3])
    Parallel(n_jobs=2)(delayed(len)(obj) for _ in range(4))
    assert len(sharing.shared) == before + 1
    del obj
    gc.collect()
    sharing.sweep()
    assert len(sharing.shared) == before


def test_workers_let_go_of_shared_objects():
    def n_loaded():
        from cypar.transport import sharing as in_worker

        return len(in_worker._loaded)

    pool.shutdown()
    run = Parallel(n_jobs=2, batch_size=1)
    for i in range(5):
        obj = share(list(range(i + 5)))
        assert run(delayed(len)(obj) for _ in range(4)) == [i + 5] * 4
        del obj
    sharing.sweep()
    run(delayed(len)([1]) for _ in range(4))
    obj = share([5])
    run(delayed(len)(obj) for _ in range(4))
    assert max(run(delayed(n_loaded)() for _ in range(4))) <= 2


def test_a_shared_object_that_cannot_be_loaded_fails_its_tasks():
    class Broken:
        def __reduce__(self):
            return int, ("not a number",)

    obj = share(Broken())
    with pytest.raises(ValueError, match="not a number"):
        Parallel(n_jobs=2)(delayed(id)(obj) for _ in range(4))


def test_a_worker_that_replaces_another_gets_the_shared_object():
    obj = share({"x": 1})

    def get(mapping, i):
        if i == 3:
            os._exit(1)
        return mapping["x"]

    with pytest.raises(cypar.WorkerCrash):
        Parallel(n_jobs=2, batch_size=1)(delayed(get)(obj, i) for i in range(10))
    assert Parallel(n_jobs=2)(delayed(get)(obj, 0) for _ in range(6)) == [1] * 6


# ---- equal bytes are not sent again ----------------------------------------------


class Opaque:
    """An object whose pickle is large, and which is no plain data."""

    def __init__(self, n):
        self.data = [str(i) for i in range(n)]


def sent_bytes(monkeypatch):
    """Return a list that grows by what is sent to workers."""
    sizes = []
    send = type(pool).lease  # any call: the workers' channels are patched as they come

    def lease(self, *args):
        worker = send(self, *args)
        if worker is not None and not hasattr(worker, "counted"):
            worker.counted = True
            original = worker.outbox.send

            def counting(kind, number, *payload):
                sizes.append(sum(map(len, payload)))
                original(kind, number, *payload)

            worker.outbox.send = counting
        return worker

    monkeypatch.setattr(type(pool), "lease", lease)
    return sizes


@pytest.mark.parametrize(
    "argument",
    [
        {i: (i, str(i)) for i in range(20_000)},
        [{"a": i, "b": [i]} for i in range(10_000)],
        Opaque(20_000),
    ],
    ids=["dict", "list of dicts", "object"],
)
def test_large_arguments_are_sent_once_per_worker(monkeypatch, argument):
    sizes = sent_bytes(monkeypatch)

    def take(first, thing, i, last="x"):
        content = getattr(thing, "data", thing)
        size = len(content)
        content.pop(0)  # nobody else must miss it
        return first, size, i, last

    n = len(getattr(argument, "data", argument))
    run = Parallel(n_jobs=2, batch_size=1)
    out = run(
        delayed(take)(f"task {i}", argument, i, last="y" * (i % 3)) for i in range(30)
    )
    assert out == [(f"task {i}", n, i, "y" * (i % 3)) for i in range(30)]
    large = [size for size in sizes if size > 50_000]
    assert len(large) <= 4  # at most twice per worker


def test_two_mutable_arguments_keep_what_they_share():
    inner = list(range(50_000))
    outer = {"inner": inner}

    def related(a, b):
        return a["inner"] is b, len(b)

    run = Parallel(n_jobs=2, batch_size=1)
    assert (
        run(delayed(related)(outer, inner) for _ in range(10)) == [(True, 50_000)] * 10
    )


def test_bases_are_forgotten_at_the_end_of_a_call():
    def n_kept():
        from cypar.transport import deltas as in_worker

        return len(in_worker.received), len(in_worker._originals)

    run = Parallel(n_jobs=2, batch_size=1)
    data = {i: [i] for i in range(20_000)}
    run(delayed(len)(data) for _ in range(10))
    assert set(run(delayed(n_kept)() for _ in range(4))) == {(0, 0)}


def test_many_different_large_arguments_in_one_batch():
    many = [dict.fromkeys(range(8000), k) for k in range(12)]
    run = Parallel(n_jobs=2, batch_size=12)
    out = run(delayed(lambda d: (len(d), d[0]))(many[i % 12]) for i in range(48))
    assert out == [(8000, i % 12) for i in range(48)]


leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.binary()
plain = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | st.text(max_size=2), inner, max_size=4)
        | st.sets(st.integers(), max_size=3)
    ),
    max_leaves=25,
)


@given(plain)
def test_a_copy_of_plain_data_is_equal_and_shares_nothing_mutable(data):
    copy = copy_plain(data)
    assert copy == data
    assert mutable_ids(copy).isdisjoint(mutable_ids(data))


def mutable_ids(obj, found=None):
    found = set() if found is None else found
    if isinstance(obj, (list, dict, set)):
        found.add(id(obj))
    if isinstance(obj, dict):
        for value in obj.values():
            mutable_ids(value, found)
    elif isinstance(obj, (list, tuple)):
        for value in obj:
            mutable_ids(value, found)
    return found


@given(st.lists(plain, min_size=1), st.data())
def test_a_snapshot_sees_every_change(data, choose):
    snapshot = Snapshot(data, None)
    assert snapshot.holds(data)
    target = data
    while True:
        inner = [x for x in _children(target) if isinstance(x, (list, dict, set))]
        if not inner or choose.draw(st.booleans()):
            break
        target = choose.draw(st.sampled_from(inner))
    if isinstance(target, list):
        target.append(object())
        assert not snapshot.holds(data)
        target.pop()
        assert snapshot.holds(data)
        if target:
            target[0] = "changed"
    elif isinstance(target, dict):
        target["new key"] = 1
    else:
        target.add("new element")
    assert not snapshot.holds(data) or not target


def _children(obj):
    return list(obj.values()) if isinstance(obj, dict) else list(obj)


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=20))
def test_common_ends(start, end, middle):
    a, b = start + middle + end, start + end
    prefix, suffix = common_ends(a, b)
    assert prefix + suffix <= min(len(a), len(b))
    assert a[:prefix] == b[:prefix]
    assert a[len(a) - suffix :] == b[len(b) - suffix :]
    assert prefix >= len(start)
    assert prefix + suffix == len(b)


@given(st.binary(max_size=100), st.integers(0, 10_000), st.binary(max_size=30))
def test_patches_restore_the_bytes(seed, cut, inserted):
    data = (seed + b"0123456789") * (deltas.MIN_BYTES // 10)
    encoder = deltas.Deltas()
    assert encoder.encode(data) is data
    other = data[:cut] + inserted + data[cut:]
    patch = encoder.encode(other)
    deltas.received[patch.base.number] = patch.base.data
    assert deltas.restore(patch.encoded()) == other
    deltas.drop_bases()
