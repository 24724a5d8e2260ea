"""What a large buffer is to the worker that gets it: the kinds of pieces of a parcel.

A task's message has a table of its pieces, in the order in which its pickle wants
them; see `cypar.core._parcel.Parcel` and docs/how_it_works.
"""

from __future__ import annotations

import struct

READ = 0  # np.memmap of mode 'r'
SHARED = 1  # np.memmap of mode 'r+': all tasks write to the same copy
COPY_ON_WRITE = 2  # np.memmap of mode 'c'
PLAIN = 3  # np.ndarray, writable, private
RAW_READ = 4  # memoryview, read-only
RAW = 5  # memoryview, writable, private
BYTES = 6  # bytes
INLINE = 16  # added to a kind: the bytes are in the message itself

MODES = {READ: "r", SHARED: "r+", COPY_ON_WRITE: "c"}
KIND_OF_MODE = {"r": READ, "r+": SHARED, "w+": SHARED, "c": COPY_ON_WRITE}

# kind, slot of the segment, number of the copy, offset, bytes
PIECE = struct.Struct("<BxHIQQ")
# descriptor in the parent, capacity, inode; a path may follow
SEGMENT = struct.Struct("<iQQ")
# one task of a message: function id, pieces, flags, bytes of its pickle
TASK = struct.Struct("<IHHQ")
MAX_PIECES = 60_000  # of one task; further buffers stay in its pickle
DELTA = 1  # flag of a task: its bytes are those of another one but for a part
PACKED = 2  # flag of a task: its function is in the pickle, not the one with that id
# what such a task has: number of the other bytes, how many to take of their
# beginning and of their end; what stands between follows
PATCH = struct.Struct("<IQQ")
