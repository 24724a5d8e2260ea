"""The compressions of the standard library, told from a file's first bytes.

All but zlib are imported when they are used: each costs a millisecond or more.
"""

from __future__ import annotations

import os
import zlib
from io import BytesIO

# of zlib and gzip when none is given: most of the gain for a tenth of the time
LEVEL = 3
METHODS = ("zlib", "gzip", "bz2", "lzma", "xz")
_BY_EXTENSION = {
    ".z": "zlib",
    ".gz": "gzip",
    ".bz2": "bz2",
    ".lzma": "lzma",
    ".xz": "xz",
}
_BY_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bz2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x5d\x00\x00", "lzma"),
    (b"x", "zlib"),
    (b"\x04\x22\x4d\x18", "lz4"),
)


def parse_compress(compress, filename):
    """Return (method, level), method None for no compression.

    Parameters
    ----------
    compress : bool, int, str or tuple
        As in `dump`.
    filename : str or None
        Whose ending chooses the method where ``compress`` does not.
    """
    method, level = None, LEVEL
    if isinstance(compress, tuple) and len(compress) == 2:
        method, level = compress
    elif isinstance(compress, str):
        method = compress
    elif compress is not True:
        level = compress
    if isinstance(level, bool) or not isinstance(level, int) or not 0 <= level <= 9:
        raise _no_compress(compress)
    if method is None:
        ending = os.path.splitext(filename or "")[1].lower()
        method = _BY_EXTENSION.get(ending)
        if method is None:
            method = "zlib" if compress else None
        elif compress is False or (compress == 0 and level == 0):
            level = LEVEL  # not given: the name says what to do
    if method is not None and method not in METHODS:
        raise _no_compress(compress)
    return method, level


def _no_compress(compress):
    return ValueError(
        "compress must be a bool, a level from 0 to 9, one of "
        f"{', '.join(map(repr, METHODS))}, or a pair (method, level); got {compress!r}"
    )


def method_of(head):
    """Return the name of the compression of a file that begins so, or None."""
    for magic, method in _BY_MAGIC:
        if head.startswith(magic):
            return method
    return None


def open_writer(file, method, level):
    """Return a file object that compresses into ``file``; closing it ends the data."""
    if method == "gzip":
        import gzip  # slow to import

        return gzip.GzipFile(fileobj=file, mode="wb", compresslevel=level)
    if method == "bz2":
        import bz2  # slow to import

        return bz2.BZ2File(file, "wb", compresslevel=max(level, 1))
    if method in ("lzma", "xz"):
        import lzma  # slow to import

        form = lzma.FORMAT_XZ if method == "xz" else lzma.FORMAT_ALONE
        return lzma.LZMAFile(file, "wb", format=form, preset=level)
    return _ZlibWriter(file, level)


def open_reader(file, method):
    """Return a file object with the uncompressed bytes of ``file``."""
    if method == "gzip":
        import gzip  # slow to import

        return gzip.GzipFile(fileobj=file, mode="rb")
    if method == "bz2":
        import bz2  # slow to import

        return bz2.BZ2File(file, "rb")
    if method in ("lzma", "xz"):
        import lzma  # slow to import

        return lzma.LZMAFile(file, "rb")
    if method == "zlib":
        return BytesIO(zlib.decompress(file.read()))
    raise ValueError(
        f"the file is compressed by {method}, which the standard library cannot read: "
        f"uncompress it first, or write it with one of {', '.join(METHODS)}"
    )


class _ZlibWriter:
    """Compresses what is written to it."""

    def __init__(self, file, level):
        self.file = file
        self.compressor = zlib.compressobj(level)

    def write(self, data):
        self.file.write(self.compressor.compress(data))
        return memoryview(data).nbytes

    def close(self):
        self.file.write(self.compressor.flush())
