"""Every kind of large data arrives whole, by shared memory, and comes back whole."""

import pickle
from fractions import Fraction

import numpy as np
import pytest

from cypar import Parallel, delayed, set_pickler
from cypar.transport.memory import CallMemory
from cypar.transport.returns import Returns

N = 400_000

pytestmark = [
    pytest.mark.filterwarnings("ignore:the matrix subclass"),
    pytest.mark.filterwarnings("ignore:The chararray class is deprecated"),
]


class Subclass(np.ndarray):
    """A subclass that leaves pickling to ndarray."""


class OwnPickling(np.ndarray):
    """A subclass that pickles itself."""

    def __reduce__(self):
        return _build_own, (np.asarray(self).tolist(),)


def _build_own(values):
    return np.array(values).view(OwnPickling)


class Buffered:
    """A class with buffers of its own."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Buffered, (pickle.PickleBuffer(self.data),)

    def __eq__(self, other):
        return bytes(self.data) == bytes(other.data)

    __hash__ = None


def some_frame():
    pytest.importorskip("pyarrow")
    pd = pytest.importorskip("pandas")
    return pd.DataFrame(
        {
            "int": np.arange(N),
            "float": np.arange(N) / 7,
            "text": pd.array([f"row {i % 1000}" for i in range(N)], "string[pyarrow]"),
            "category": pd.Categorical(["a", "b"] * (N // 2)),
            "date": pd.date_range("2020", periods=N, freq="s"),
            "missing": pd.array([1, None] * (N // 2), dtype="Int64"),
        },
        index=pd.RangeIndex(5, N + 5),
    )


def some_table():
    pa = pytest.importorskip("pyarrow")
    return pa.table(
        {"x": np.arange(N), "s": pa.array([f"v{i % 99}" for i in range(N)])}
    )


def some_csr():
    sparse = pytest.importorskip("scipy.sparse")
    return sparse.random(2000, 2000, 0.1, format="csr", random_state=1)


ARRAYS = {
    "float64": lambda: np.arange(N) / 3,
    "bool": lambda: np.arange(4 * N) % 3 == 0,
    "complex": lambda: np.arange(N) * (1 + 2j),
    "float16": lambda: (np.arange(2 * N) % 999).astype("f2"),
    "big-endian": lambda: np.arange(N, dtype=">i8"),
    "datetime": lambda: np.arange(N).astype("M8[s]"),
    "timedelta": lambda: np.arange(N).astype("m8[us]"),
    "fixed text": lambda: np.arange(N // 4).astype("U20"),
    "fixed bytes": lambda: np.arange(N).astype("S11"),
    "structured": lambda: np.ones(N, [("a", "i4"), ("b", "f8", (2,)), ("c", "S3")]),
    "aligned": lambda: np.ones(N, np.dtype("i1, f8", align=True)),
    "strided": lambda: np.arange(4 * N)[::3],
    "far strided": lambda: np.arange(10 * N).reshape(-1, 10)[:, 4],
    "negative": lambda: np.arange(N)[::-1],
    "fortran": lambda: np.asfortranarray(np.arange(N).reshape(400, -1)),
    "transposed": lambda: np.arange(N).reshape(4, 100, -1).transpose(2, 0, 1),
    "sliced fortran": lambda: np.asfortranarray(np.ones((1000, 800)))[1:-1, ::2],
    "broadcast": lambda: np.broadcast_to(np.arange(1000), (500, 1000)),
    "windows": lambda: np.lib.stride_tricks.sliding_window_view(np.arange(9000), 100),
    "five axes": lambda: np.arange(N).reshape(2, 4, 5, 100, -1)[:, ::-1, 1:, ::2],
    "matrix": lambda: np.matrix(np.arange(N).reshape(400, -1)),
    "records": lambda: np.rec.fromarrays([np.arange(N), np.arange(N) / 2], names="x,y"),
    "chararray": lambda: np.char.array(np.arange(N // 2).astype("S9")),
    "masked": lambda: np.ma.masked_equal(np.arange(N) % 7, 3),
    "unmasked": lambda: np.ma.masked_array(np.arange(N)),
    "subclass": lambda: np.arange(N).view(Subclass),
    "own pickling": lambda: np.arange(N).view(OwnPickling),
    "read-only": lambda: np.frombuffer(bytes(range(250)) * 10_000, "u1"),
    "object": lambda: np.array([Fraction(i, 7) for i in range(2000)] * 70, object),
    "object fields": lambda: np.array([(1, "x")] * 100_000, "i8, O"),
}
# what goes by the pickle itself: it holds Python objects, or wants to
IN_PICKLE = {"own pickling", "object", "object fields"}

OTHERS = {
    "frame": some_frame,
    "series": lambda: some_frame()["text"],
    "arrow": some_table,
    "csr": some_csr,
    "csc": lambda: some_csr().tocsc(),
    "coo": lambda: some_csr().tocoo(),
    "bytes": lambda: bytes(range(256)) * 8000,
    "bytearray": lambda: bytearray(range(256)) * 8000,
    "memoryview": lambda: memoryview(bytes(range(256)) * 8000),
    "typed memoryview": lambda: memoryview(np.arange(N).reshape(400, -1)),
    "big-endian memoryview": lambda: memoryview(np.arange(N).astype(">f8")),
    "complex memoryview": lambda: memoryview(np.arange(N) * 1j),
    "memoryview of records": lambda: memoryview(np.zeros(N, "i4,f8")),
    "class with buffers": lambda: Buffered(bytearray(range(256)) * 8000),
    "class with read-only buffers": lambda: Buffered(bytes(range(256)) * 8000),
    "nested": lambda: {"x": [np.arange(N), (np.ones(N),)], "y": {1: np.zeros(N)}},
}
KINDS = {**ARRAYS, **OTHERS}


def equal(a, b):
    """Whether two objects of one of these kinds are equal."""
    if type(a) is memoryview:
        same = a.format == b.format and a.shape == b.shape
        return same and a.tobytes() == b.tobytes()
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        if isinstance(a, np.ma.MaskedArray):
            assert isinstance(b, np.ma.MaskedArray)
            assert (np.ma.getmaskarray(a) == np.ma.getmaskarray(b)).all()
            a, b = a.filled(-1), b.filled(-1)
        return np.array_equal(np.asarray(a), np.asarray(b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if hasattr(a, "equals"):
        return a.equals(b)
    if hasattr(a, "nnz"):
        return a.shape == b.shape and (a != b).nnz == 0
    return type(a) is type(b) and a == b


def there_and_back(obj, expected):
    """Compare in the worker, and send it back."""
    return equal(obj, expected()), type(obj).__name__, obj


@pytest.mark.parametrize("mode", ["r", "c", None])
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_arrives_and_comes_back(make, mode):
    obj = make()
    run = Parallel(n_jobs=2, mmap_mode=mode, max_nbytes=10_000 if mode else "1M")
    for same, kind, result in run(delayed(there_and_back)(obj, make) for _ in range(2)):
        assert same
        if type(obj) is np.ndarray:
            mapped = mode is not None and not obj.dtype.hasobject
            assert kind == ("memmap" if mapped else "ndarray")
        else:
            assert kind == type(obj).__name__
        assert equal(result, obj)
        assert type(result) is type(obj)
        if isinstance(obj, np.ndarray):
            assert result.flags.writeable


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_travels_outside_of_the_pickle(make):
    """The pickle of what is large is small, on both ways."""
    obj = make()
    memory = CallMemory(1 << 20, "r")
    data, parcel = memory.dumps_task((obj,), {})
    try:
        back = Returns().dumps(obj)
        if make in [ARRAYS[name] for name in IN_PICKLE]:
            assert parcel is None
        else:
            assert len(parcel) >= 1
            # categories and the like are small and stay in
            assert len(data) < 200_000
            assert type(back) is tuple
            assert len(back[0]) < 200_000
    finally:
        parcel = None
        memory.close()


@pytest.mark.parametrize("layout", ["C", "F"])
def test_order_survives(layout):
    array = np.array(np.random.default_rng(0).random((500, 600)), order=layout)

    def flags(a):
        return a.flags.c_contiguous, a.flags.f_contiguous, a

    for mode in ("r", None):
        run = Parallel(n_jobs=2, mmap_mode=mode)
        for c, f, back in run(delayed(flags)(array) for _ in range(2)):
            assert (c, f) == (layout == "C", layout == "F")
            assert (back.flags.c_contiguous, back.flags.f_contiguous) == (c, f)


def test_identity_within_a_task_survives():
    array = np.arange(N)
    text = b"x" * 2_000_000

    def same_objects(a, b, c, d):
        return a is b, c is d

    run = Parallel(n_jobs=2)
    out = run(delayed(same_objects)(array, array, text, text) for _ in range(2))
    assert out == [(True, True)] * 2


def test_writable_bytes_are_the_tasks_own():
    data = bytearray(2_000_000)

    def write(buffer):
        buffer[:5] = b"12345"
        return bytes(buffer).count(0)

    out = Parallel(n_jobs=2)(delayed(write)(data) for _ in range(6))
    assert out == [len(data) - 5] * 6
    view = memoryview(data)
    out = Parallel(n_jobs=2)(delayed(write)(view) for _ in range(6))
    assert out == [len(data) - 5] * 6
    assert data.count(0) == len(data)


def test_writable_frames_with_mode_c():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(np.zeros((N, 3)), columns=list("abc"))

    def write(f):
        f.iloc[0, 0] = 1
        f["d"] = f["a"] + 1
        return float(f.to_numpy().sum())

    out = Parallel(n_jobs=2, mmap_mode="c")(delayed(write)(frame) for _ in range(4))
    assert out == [N + 1 + 1] * 4


@pytest.mark.parametrize("name", ["pickle", "dill"])
def test_other_picklers_map_arrays_too(name):
    pytest.importorskip(name)
    array = np.arange(N)

    try:
        set_pickler(name)
        out = Parallel(n_jobs=2)(delayed(type)(array) for _ in range(2))
    finally:
        set_pickler("cloudpickle")
    assert out == [np.memmap] * 2


def test_many_small_arrays(fresh_arena):
    """With a low threshold, thousands of arrays share few segments."""
    arrays = [np.full(100, float(i)) for i in range(3000)]

    def totals(many):
        assert all(isinstance(a, np.memmap) for a in many)
        return sum(float(a[0]) for a in many)

    run = Parallel(n_jobs=2, max_nbytes=0)
    expected = float(sum(range(3000)))
    assert run(delayed(totals)(arrays) for _ in range(4)) == [expected] * 4
    run = Parallel(n_jobs=2, max_nbytes=0, batch_size=100)
    out = run(delayed(np.sum)(a) for a in arrays)
    assert out == [float(i * 100) for i in range(3000)]
    assert len(fresh_arena.segments) < 20


def describe_view(view):
    return view.format, view.shape, view.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).astype(">i2").reshape(2, 3),
        np.arange(6.0),
        np.float64(1),
        np.zeros((0, 3)),
        np.zeros(0),
        np.zeros(3, "i4,f8"),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_small_memoryviews(parallel, array):
    view = memoryview(array)
    expected = [(view.format, view.shape, view.tobytes())] * 2
    assert parallel()(delayed(describe_view)(view) for _ in range(2)) == expected
