"""Read files that joblib's ``dump`` has written, since version 0.10, without joblib.

Such a file is a pickle in which a wrapper with shape, dtype and order stands for each
array; the array's bytes follow the wrapper at once, inside the stream, after a byte
that counts padding. The C unpickler reads ahead, so this needs the one in Python.
Any plain pickle is read as well.
"""

from __future__ import annotations

import os
import pickle
import struct

from cypar.core.errors import BadFileError
from cypar.transport import arrays
from cypar.transport.memmap import MappedFile, map_fd
from cypar.transport.pieces import KIND_OF_MODE, MODES, READ

_WRAPPER = ("joblib.numpy_pickle", "NumpyArrayWrapper")
# what versions before 0.10 wrote: arrays in files of their own, or compressed strings
_OLD = {
    ("joblib.numpy_pickle", "NDArrayWrapper"),
    ("joblib.numpy_pickle", "ZNDArrayWrapper"),
    ("joblib.numpy_pickle_compat", "NDArrayWrapper"),
    ("joblib.numpy_pickle_compat", "ZNDArrayWrapper"),
}


class _Wrapper:
    """Stands for one array, as joblib describes it."""

    numpy_array_alignment_bytes = None  # files of versions before 1.2 have no padding
    subclass = None
    allow_mmap = True


class _JoblibUnpickler(pickle._Unpickler):
    """Reads arrays out of the stream where a wrapper says so."""

    def __init__(self, file, name, mmap_mode):
        super().__init__(file)
        self.file = file
        self.name = name
        self.mmap_mode = mmap_mode
        self.mapped = None

    dispatch = pickle._Unpickler.dispatch.copy()

    def find_class(self, module, name):
        if (module, name) == _WRAPPER:
            return _Wrapper
        if (module, name) in _OLD:
            raise BadFileError(
                f"{self.name!r} was written by joblib before version 0.10, whose "
                "format is not read here: load it with joblib and dump it again"
            )
        return super().find_class(module, name)

    def load_build(self):
        super().load_build()
        if type(self.stack[-1]) is _Wrapper:
            self.stack.append(self._read_array(self.stack.pop()))

    dispatch[pickle.BUILD[0]] = load_build

    def _read_array(self, wrapper):
        import numpy as np  # the first array of this process

        if wrapper.dtype.hasobject:
            return _JoblibUnpickler(self.file, self.name, None).load()
        if wrapper.numpy_array_alignment_bytes is not None:
            padding = self._read_exactly(1)[0]
            self._read_exactly(padding)
        if self.mmap_mode is not None and wrapper.allow_mmap:
            array = self._map_array(np, wrapper)
        else:
            array = self._array_in_memory(np, wrapper)
        cls = wrapper.subclass
        if (
            cls not in (None, np.ndarray, np.memmap)
            and issubclass(cls, np.ndarray)
            and arrays.is_plain_subclass(np, cls)
        ):
            array = array.view(cls)
        return array

    def _array_in_memory(self, np, wrapper):
        array = np.empty(wrapper.shape, wrapper.dtype, order=wrapper.order)
        flat = (array.T if wrapper.order == "F" else array).reshape(-1)
        if array.nbytes:
            view, done = memoryview(flat.view("u1")), 0
            while done < array.nbytes:
                data = self.file.read(min(array.nbytes - done, 1 << 24))
                if not data:
                    raise _cut_off(self.name)
                view[done : done + len(data)] = data
                done += len(data)
        return array

    def _map_array(self, np, wrapper):
        start = self.file.tell()
        size = os.fstat(self.file.fileno()).st_size
        if self.mapped is None:
            self.mapped = _map_whole(self.name, self.mmap_mode, size)
        n = wrapper.dtype.itemsize
        for length in wrapper.shape:
            n *= length
        if start + n > size:
            raise _cut_off(self.name)
        self.file.seek(start + n)
        if n == 0:
            return np.empty(wrapper.shape, wrapper.dtype, order=wrapper.order)
        strides = None
        buffer = self.mapped.buffer
        if wrapper.order == "F":
            strides = np.ndarray(
                wrapper.shape, wrapper.dtype, buffer, start, order="F"
            ).strides
        return arrays.as_memmap(
            np,
            buffer,
            start,
            self.mapped,
            MODES[self.mapped.kind],
            wrapper.dtype,
            wrapper.shape,
            strides,
        )

    def _read_exactly(self, n):
        data = self.file.read(n)
        if len(data) != n:
            raise _cut_off(self.name)
        return data


def load_joblib(file, name, mmap_mode):
    """Load a file that joblib wrote uncompressed, or any other pickle.

    Parameters
    ----------
    file : file object
        At its beginning.
    name : str
        Its path; for messages only, if ``mmap_mode`` is None.
    mmap_mode : str or None
    """
    head = file.read(2)
    file.seek(0)
    if not head:
        raise BadFileError(f"{name!r} is empty")
    unpickler = _JoblibUnpickler(file, name, mmap_mode)
    if head[:1] == pickle.PROTO:
        try:
            return unpickler.load()
        except _BAD_STREAM as error:
            raise _cut_off(name) from error
    try:  # protocols 0 and 1 have no mark of their own
        return unpickler.load()
    except (BadFileError, MemoryError):
        raise
    except Exception as error:
        raise BadFileError(
            f"{name!r} is no file of dump, of joblib or of pickle: it begins with "
            f"{head!r}"
        ) from error


# what the unpickler raises when the stream ends or makes no sense
_BAD_STREAM = (EOFError, pickle.UnpicklingError, KeyError, IndexError, struct.error)


def _cut_off(name):
    return BadFileError(f"{name!r} is damaged or was cut off")


def _map_whole(path, mmap_mode, size):
    kind = KIND_OF_MODE[mmap_mode]
    mode = "rb" if kind == READ or mmap_mode == "c" else "r+b"
    with open(path, mode, buffering=0) as file:
        return MappedFile(
            kind, map_fd(file.fileno(), kind, 0, size), 0, os.path.abspath(path)
        )
