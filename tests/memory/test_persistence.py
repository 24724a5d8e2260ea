"""Row S49: `dump` and `load`, and the files that joblib writes."""

import io
import os
import stat
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cypar import BadFileError, CyparWarning, dump, load

joblib = pytest.importorskip("joblib")

MODES = [None, "r", "r+", "w+", "c"]
METHODS = ["zlib", "gzip", "bz2", "lzma", "xz"]


def sample():
    return {
        "array": np.arange(10.0),
        "fortran": np.asfortranarray(np.arange(20).reshape(4, 5)),
        "nested": [1, "x", {"y": np.arange(6)[::2]}],
        "objects": np.array([1, "a", None], object),
        "masked": np.ma.masked_array([1.0, 2.0], [False, True]),
        "axes": np.arange(24).reshape(2, 3, 4).transpose(1, 0, 2),
        "dates": np.array(["2020", "2021"], "M8[ns]"),
        "records": np.zeros(3, "i4,f8"),
        "empty": np.empty((0, 3)),
        "big-endian": np.arange(5, dtype=">i4"),
        "scalar": np.float64(3),
        "no axes": np.array(5.0),
        "bytes": b"0" * 10_000,
    }


def assert_same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, np.ma.MaskedArray):
        assert (a.filled(-1) == b.filled(-1)).all()
    elif isinstance(a, np.ndarray):
        assert (a.shape, a.dtype.newbyteorder("=")) == (
            b.shape,
            b.dtype.newbyteorder("="),
        )
        assert (np.asarray(a) == np.asarray(b)).all()
    else:
        assert a == b


def test_s49_the_example_of_the_reference_text(tmp_path):
    large_array = np.ones(int(1e6))
    filename = os.path.join(tmp_path, "joblib_test.mmap")
    assert dump(large_array, filename) == [filename]
    large_memmap = load(filename, mmap_mode="r+")
    assert (
        large_memmap.__class__.__name__,
        large_array.nbytes,
        large_array.shape,
    ) == ("memmap", 8000000, (1000000,))
    assert np.allclose(large_array, large_memmap)


@pytest.mark.parametrize("mode", MODES)
def test_s49_modes(tmp_path, mode):
    path = tmp_path / "x"
    dump(np.arange(8.0), path)
    array = load(path, mmap_mode=mode)
    assert isinstance(array, np.memmap) == (mode is not None)
    assert array.tolist() == list(range(8))  # 'w+' erases nothing
    if mode == "r":
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5
        return
    array[0] = 5
    stored = load(path)[0]
    assert stored == (5 if mode in ("r+", "w+") else 0)


@pytest.mark.parametrize("mode", MODES)
def test_any_object(tmp_path, mode):
    dump(sample(), tmp_path / "x")
    loaded = load(tmp_path / "x", mmap_mode=mode)
    assert_same(sample(), loaded)
    if mode is not None:
        for key in ("array", "fortran", "axes", "dates", "records", "big-endian"):
            assert type(loaded[key]) is np.memmap
            assert loaded[key].ctypes.data % 64 == 0
        assert loaded["fortran"].flags.f_contiguous
        assert os.path.samefile(loaded["array"].filename, tmp_path / "x")


def test_one_array_twice_is_stored_once(tmp_path):
    array = np.ones(10_000)
    dump([array, array], tmp_path / "x")
    assert os.path.getsize(tmp_path / "x") < 90_000
    first, second = load(tmp_path / "x", mmap_mode="r")
    assert first is second


@pytest.mark.parametrize("kind", ["frame", "sparse", "arrow"])
def test_other_libraries(tmp_path, kind):
    if kind == "frame":
        pd = pytest.importorskip("pandas")
        obj = pd.DataFrame({"x": np.arange(1000), "s": ["a", "b"] * 500})
    elif kind == "sparse":
        obj = pytest.importorskip("scipy.sparse").eye(1000, format="csr")
    else:
        obj = pytest.importorskip("pyarrow").table({"x": np.arange(5000)})
    dump(obj, tmp_path / "x")
    for mode in MODES:
        loaded = load(tmp_path / "x", mmap_mode=mode)
        if kind == "sparse":
            assert (obj != loaded).nnz == 0
        else:
            assert obj.equals(loaded)


# ---- compression -----------------------------------------------------------------


@pytest.mark.parametrize(
    "compress", [True, 1, 9, *METHODS, ("gzip", 5), ("xz", 0)], ids=repr
)
def test_compressed(tmp_path, compress):
    path = str(tmp_path / "x")
    data = [np.zeros(100_000), sample()]
    assert dump(data, path, compress=compress) == [path]
    assert os.path.getsize(path) < 100_000
    assert_same(data, load(path))
    with pytest.warns(CyparWarning, match="cannot be mapped"):
        assert_same(data, load(path, mmap_mode="r"))


@pytest.mark.parametrize("ending", [".z", ".gz", ".bz2", ".lzma", ".xz", ".GZ"])
def test_the_name_chooses_the_compression(tmp_path, ending):
    path = tmp_path / ("x" + ending)
    dump(np.zeros(100_000), path)
    assert os.path.getsize(path) < 10_000
    assert (load(path) == 0).all()


@pytest.mark.parametrize(
    "compress", ["lz4", "brotli", 10, -1, ("zlib", 10), ("zlib",), 1.5, ("zlib", True)]
)
def test_unknown_compressions(tmp_path, compress):
    with pytest.raises(ValueError, match="compress must be"):
        dump(1, tmp_path / "x", compress=compress)
    assert os.listdir(tmp_path) == []


# ---- files of joblib -------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_joblibs_files(tmp_path, mode):
    path = tmp_path / "x"
    joblib.dump(sample(), path)
    loaded = load(path, mmap_mode=mode)
    assert_same(sample(), loaded)
    assert isinstance(loaded["array"], np.memmap) == (mode is not None)


@pytest.mark.parametrize("compress", METHODS)
def test_joblibs_compressed_files(tmp_path, compress):
    joblib.dump(sample(), tmp_path / "x", compress=(compress, 3))
    assert_same(sample(), load(tmp_path / "x"))


def test_files_of_lz4_say_what_to_do(tmp_path):
    (tmp_path / "x").write_bytes(b"\x04\x22\x4d\x18" + bytes(100))
    with pytest.raises(ValueError, match=r"lz4.*standard library cannot read"):
        load(tmp_path / "x")


# NumPy's own pickle of dates loses their byte order, and joblib uses it
DATES = hnp.datetime64_dtypes(endianness="=") | hnp.timedelta64_dtypes(endianness="=")
DTYPES = hnp.scalar_dtypes().filter(lambda dtype: dtype.kind not in "mM") | DATES


@settings(max_examples=50)
@given(
    hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, min_side=0)),
    st.booleans(),
    st.sampled_from(MODES),
)
def test_any_array(tmp_path_factory, array, fortran, mode):
    folder = tmp_path_factory.mktemp("any")
    array = np.asarray(array, order="F" if fortran else "C")
    for writer in (dump, joblib.dump):
        writer({"a": array}, str(folder / "x"))
        loaded = load(folder / "x", mmap_mode=mode)["a"]
        assert (loaded.shape, loaded.dtype) == (array.shape, array.dtype)
        assert loaded.tobytes() == array.tobytes()
        assert loaded.flags.f_contiguous == array.flags.f_contiguous or 0 in array.shape


def test_plain_pickles(tmp_path):
    import pickle

    for protocol in range(6):
        (tmp_path / "x").write_bytes(pickle.dumps([1, "x", {2: 3}], protocol))
        assert load(tmp_path / "x") == [1, "x", {2: 3}]


# ---- file objects ----------------------------------------------------------------


@pytest.mark.parametrize("compress", [0, "gzip"])
def test_file_objects(compress):
    buffer = io.BytesIO()
    assert dump(sample(), buffer, compress=compress) is None
    buffer.seek(0)
    assert_same(sample(), load(buffer))


def test_open_files(tmp_path):
    with open(tmp_path / "x", "wb") as file:
        dump(sample(), file)
    with open(tmp_path / "x", "rb") as file:
        assert_same(sample(), load(file))


# ---- bad files -------------------------------------------------------------------


@pytest.mark.parametrize("writer", [dump, joblib.dump], ids=["cypar", "joblib"])
@pytest.mark.parametrize("mode", [None, "r"])
def test_a_file_that_was_cut_off(tmp_path, writer, mode):
    writer([np.arange(1000.0), "text"], str(tmp_path / "x"))
    data = (tmp_path / "x").read_bytes()
    for n in [0, 1, 5, 16, 17, 100, len(data) // 2, len(data) - 1]:
        (tmp_path / "y").write_bytes(data[:n])
        with pytest.raises(BadFileError, match=r"cut off|empty"):
            load(tmp_path / "y", mmap_mode=mode)


@pytest.mark.parametrize("method", METHODS)
def test_a_compressed_file_that_was_cut_off(tmp_path, method):
    dump(np.random.default_rng(0).random(10_000), tmp_path / "x", compress=method)
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "y").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cannot be uncompressed|cut off"):
        load(tmp_path / "y")


@pytest.mark.parametrize(
    "content",
    [b"hello world" * 10, b"\x00" * 100, b"PK\x03\x04" + bytes(50), b"\xff" * 9],
)
def test_a_foreign_file(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(
        BadFileError, match="is no file of dump, of joblib or of pickle"
    ):
        load(tmp_path / "x")


def test_a_damaged_file(tmp_path):
    dump([np.arange(1000.0), "text"], tmp_path / "x")
    data = bytearray((tmp_path / "x").read_bytes())
    place = data.index(b"text")
    data[place] ^= 1
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(BadFileError, match="checksum"):
        load(tmp_path / "x")


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "x")


def test_an_unknown_mode(tmp_path):
    with pytest.raises(ValueError, match="mmap_mode must be one of"):
        load(tmp_path / "x", mmap_mode="w")


# ---- replacing files -------------------------------------------------------------


def test_a_failed_dump_leaves_the_old_file(tmp_path):
    dump([1], tmp_path / "x")
    with pytest.raises(TypeError, match="pickle"):
        dump([np.ones(1000), threading.Lock()], tmp_path / "x")
    assert load(tmp_path / "x") == [1]
    assert os.listdir(tmp_path) == ["x"]


def test_a_mapped_file_can_be_replaced(tmp_path):
    """Even by data that comes from it."""
    dump(np.arange(1e5), tmp_path / "x")
    old = load(tmp_path / "x", mmap_mode="r")
    dump(old, tmp_path / "x")
    dump(np.zeros(3), tmp_path / "x")
    assert old.sum() == np.arange(1e5).sum()
    assert load(tmp_path / "x").tolist() == [0, 0, 0]


def test_permissions_of_a_replaced_file_stay(tmp_path):
    dump(1, tmp_path / "x")
    os.chmod(tmp_path / "x", 0o640)
    dump(2, tmp_path / "x")
    assert stat.S_IMODE(os.stat(tmp_path / "x").st_mode) == 0o640


def test_a_device(tmp_path):
    assert dump([1, np.ones(10)], os.devnull) == [os.devnull]
