"""Write any object to a file whose arrays can be mapped, and read it: `dump`, `load`.

A file is::

    magic (16 bytes)
    the bytes of each array, aligned to 64
    a pickle of the object with tokens in the place of arrays
    a table: kind, offset, bytes of each array
    a trailer: number of arrays, begin and bytes of the pickle, its checksum, magic

so it can be written in one pass, and a file that was cut off is recognised.
"""

from __future__ import annotations

import os
import struct
import warnings
from _pickle import Unpickler
from io import BytesIO
from zlib import crc32

from cypar.core.errors import BadFileError, CyparWarning
from cypar.transport import arrays, compression, serialize
from cypar.transport.joblib_files import load_joblib
from cypar.transport.memmap import MappedFile, map_fd
from cypar.transport.pieces import KIND_OF_MODE, READ
from cypar.transport.reducing import Reducer

MAGIC = b"cypar dump 1\r\n\x1a\n"
END_MAGIC = b"end cypar dump\r\n"
ALIGNMENT = 64  # bytes: the longest vector registers, and any dtype
_ARRAY, _RAW = 0, 1  # kinds of buffers
_ENTRY = struct.Struct("<QQQ")  # kind, offset, bytes
_TRAILER = struct.Struct("<QQQI16s")
_RAW_BYTES = 4096  # buffers of other kinds that are written like arrays


def dump(value, filename, compress=0, protocol=None):
    """Write an object to a file; `load` reads it.

    Parameters
    ----------
    value : object
        Anything that `pickle` can handle. NumPy arrays in it are stored so that `load`
        can map them; classes and functions are stored by name.
    filename : str, path or file object
        The file is replaced when all is written, so that memory maps of an older file
        of that name stay valid. A file object must be open for writing bytes.
    compress : bool, int, str or (str, int), default=0
        Level from 0 (none) to 9, or method: 'zlib', 'gzip', 'bz2', 'lzma', 'xz', or
        both. A file name that ends in .z, .gz, .bz2, .lzma or .xz chooses as well.
        Compressed files cannot be mapped.
    protocol : int, optional
        For programs written for joblib; the file always has pickle protocol 5.

    Returns
    -------
    list of str
        ``[filename]``, or None for a file object.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> folder = tempfile.mkdtemp()
    >>> path = os.path.join(folder, "data")
    >>> dump({"x": np.arange(3.0)}, path) == [path]
    True
    >>> x = load(path, mmap_mode="r")["x"]
    >>> x.__class__.__name__, x.sum().item()
    ('memmap', 3.0)
    >>> del x
    >>> os.remove(path)
    >>> os.rmdir(folder)
    """
    if hasattr(filename, "write"):
        method, level = compression.parse_compress(compress, None)
        _write(value, filename, method, level)
        return None
    filename = os.fspath(filename)
    method, level = compression.parse_compress(compress, os.fsdecode(filename))
    with _ReplacedFile(filename) as file:
        _write(value, file, method, level)
    return [filename]


def load(filename, mmap_mode=None):
    """Read an object from a file that `dump` or joblib's ``dump`` has written.

    A file can hold any code: never load one that you do not trust.

    Parameters
    ----------
    filename : str, path or file object
    mmap_mode : {None, 'r', 'r+', 'w+', 'c'}, default=None
        With None, arrays are read into memory. Otherwise they are `numpy.memmap` on
        the file: read-only, writable ('w+' is the same: nothing is erased), or with
        changes kept in memory ('c').

    Returns
    -------
    object

    Raises
    ------
    ValueError
        If the file is neither a dump nor a pickle, or was cut off.
    """
    if mmap_mode is not None and mmap_mode not in KIND_OF_MODE:
        raise ValueError(
            f"mmap_mode must be one of None, 'r', 'r+', 'w+', 'c'; got {mmap_mode!r}"
        )
    if hasattr(filename, "read"):
        return _load_stream(filename, str(getattr(filename, "name", "the file")))
    path = os.fsdecode(os.fspath(filename))
    with open(path, "rb") as file:
        head = file.read(len(MAGIC))
        file.seek(0)
        if head == MAGIC:
            return _load_own(file, path, mmap_mode)
        if head and MAGIC.startswith(head):
            raise _cut_off(path, len(head))
        method = compression.method_of(head)
        if method is not None and mmap_mode is not None:
            warnings.warn(
                f"{path!r} is compressed by {method} and cannot be mapped: its arrays "
                "are read into memory",
                CyparWarning,
                stacklevel=2,
            )
        if method is not None:
            return _load_compressed(file, path, method)
        return load_joblib(file, path, mmap_mode)


# ---- writing ---------------------------------------------------------------------


class _ReplacedFile:
    """A new file that takes the place of another one when all went well."""

    def __init__(self, filename):
        self.filename = filename
        folder, name = os.path.split(os.fsdecode(filename))
        self.temporary = os.path.join(folder, f".{name}.{os.urandom(6).hex()}")

    def __enter__(self):
        if os.path.exists(self.filename) and not os.path.isfile(self.filename):
            self.temporary = None  # a device or a pipe
            self.file = open(self.filename, "wb")
        else:
            self.file = open(self.temporary, "xb")
        return self.file

    def __exit__(self, kind, error, traceback):
        self.file.close()
        if self.temporary is None:
            return
        if kind is not None:
            os.unlink(self.temporary)
            return
        try:
            os.chmod(self.temporary, os.stat(self.filename).st_mode & 0o7777)
        except OSError:
            pass  # there was none
        os.replace(self.temporary, self.filename)


def _write(value, file, method, level):
    if method is None:
        _Writer(file).write(value)
        return
    compressed = compression.open_writer(file, method, level)
    try:
        _Writer(compressed).write(value)
    finally:
        compressed.close()


class _Writer(Reducer):
    """Writes one dump."""

    array_bytes = 0
    raw_bytes = _RAW_BYTES

    def __init__(self, file):
        super().__init__()
        self.file = file
        self.position = 0
        self.table = []

    def write(self, value):
        self._put(MAGIC)
        data = serialize.dumps_by_name(value, self)
        begin = self.position
        self._put(data)
        for entry in self.table:
            self._put(_ENTRY.pack(*entry))
        self._put(
            _TRAILER.pack(len(self.table), begin, len(data), crc32(data), END_MAGIC)
        )

    def _put(self, data):
        self.file.write(data)
        self.position += memoryview(data).nbytes

    def _put_aligned(self, kind, data):
        self._put(b"\0" * (-self.position % ALIGNMENT))
        self.table.append((kind, self.position, data.nbytes))
        self._put(data)

    def restart(self):
        raise AssertionError("one pickler writes one dump")

    def by_reference(self, array):
        return None  # the file stands for itself

    def put_array(self, array, may_map):
        flat, order = arrays.flat_bytes(array)
        self._put_aligned(_ARRAY, flat)
        dtype = arrays.describe_dtype(array.dtype)
        parts = (dtype, array.shape, order, may_map)
        return arrays.rebuild_stored, (self.token(), *parts)

    def put_raw(self, buffer, owner):
        self._put_aligned(_RAW, memoryview(buffer).cast("B"))
        return True


# ---- reading ---------------------------------------------------------------------


def _load_own(file, path, mmap_mode):
    size = os.fstat(file.fileno()).st_size
    table, data = _read_end(file, size, path)
    if mmap_mode is None or not table:
        buffers = _read_buffers(file, table, path)
    else:
        kind = KIND_OF_MODE[mmap_mode]
        mode = "rb" if kind == READ or mmap_mode == "c" else "r+b"
        with open(path, mode, buffering=0) as again:
            buffer = map_fd(again.fileno(), kind, 0, size)
        mapped = MappedFile(kind, buffer, 0, os.path.abspath(path))
        buffers = [
            memoryview(buffer)[offset : offset + n]
            if what == _RAW
            else _Stored(buffer, offset, mapped)
            for what, offset, n in table
        ]
    return Unpickler(BytesIO(data), buffers=buffers).load()


def _read_end(file, size, path):
    """Return the table and the pickle of a dump; raises if they are not all there."""
    if size < len(MAGIC) + _TRAILER.size:
        raise _cut_off(path, size)
    file.seek(size - _TRAILER.size)
    n, begin, n_pickle, checksum, magic = _TRAILER.unpack(file.read(_TRAILER.size))
    if magic != END_MAGIC or begin + n_pickle + n * _ENTRY.size != size - _TRAILER.size:
        raise _cut_off(path, size)
    file.seek(begin)
    data = file.read(n_pickle)
    if crc32(data) != checksum:
        raise BadFileError(f"{path!r} is damaged: the checksum of its pickle is wrong")
    table = list(_ENTRY.iter_unpack(file.read(n * _ENTRY.size)))
    if any(offset + n_bytes > begin for _, offset, n_bytes in table):
        raise BadFileError(f"{path!r} is damaged: an array lies outside of it")
    return table, data


def _cut_off(path, size):
    return BadFileError(
        f"{path!r} was cut off: it has {size} bytes, but not the end that a complete "
        "dump has. Was the disk full, or is it still being written?"
    )


def _read_buffers(file, table, path):
    buffers = []
    for kind, offset, n in table:
        file.seek(offset)
        memory = _read_into_memory(file, n, path)
        buffers.append(memory if kind == _RAW else _Stored(memory))
    return buffers


def _read_into_memory(file, n, path):
    """Read ``n`` bytes into memory of their own."""
    numpy = arrays.loaded_numpy()
    target = bytearray(n) if numpy is None else numpy.empty(n, "u1")
    view, done = memoryview(target), 0
    while done < n:
        read = file.readinto(view[done:])
        if not read:
            raise _cut_off(path, done)
        done += read
    return target


class _Stored:
    """The bytes of one array of a file, in memory or mapped."""

    __slots__ = ("buffer", "mapped", "start")

    def __init__(self, buffer, start=0, mapped=None):
        self.buffer = buffer
        self.start = start
        self.mapped = mapped


def _load_compressed(file, name, method):
    try:
        reader = compression.open_reader(file, method)
        data = reader.read()
    except (EOFError, OSError) as error:
        raise BadFileError(f"{name!r} cannot be uncompressed: {error}") from error
    except ValueError:
        raise
    except Exception as error:  # each module has an exception of its own
        raise BadFileError(f"{name!r} cannot be uncompressed: {error}") from error
    return _load_stream(BytesIO(data), name)


def _load_stream(file, name):
    """Load from a file object, which need not be a file of the system's."""
    data = file.read()
    method = compression.method_of(data[:16])
    if method is not None:
        return _load_compressed(BytesIO(data), name, method)
    inner = BytesIO(data)
    if not data.startswith(MAGIC):
        return load_joblib(inner, name, None)
    table, pickled = _read_end(inner, len(data), name)
    buffers = _read_buffers(inner, table, name)
    return Unpickler(BytesIO(pickled), buffers=buffers).load()
