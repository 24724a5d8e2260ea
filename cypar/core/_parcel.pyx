"""What one captured task needs of shared memory.

Thread safety: GIL; one owner at a time, who has the task.
"""

from cypar.core._segment cimport Segment


cdef class Parcel:
    """Large buffers of one captured task, in the order in which its pickle has them.

    A piece is ``(kind, segment, number of the copy, offset, size)``, or
    ``(kind, bytes, 0, 0, size)`` for one that travels with the task's message. Kinds
    are those of transport.pieces. ``shares`` lists the shared objects and the
    bytes sent before that the pickle refers to.
    """

    def __init__(self):
        self.pieces = []
        self.shares = []

    def add(self, kind, place, number, Py_ssize_t offset, Py_ssize_t size):
        """Append one piece and pin its segment."""
        if isinstance(place, Segment):
            (<Segment>place).pins += 1
        self.pieces.append((kind, place, number, offset, size))

    def clear(self):
        """Take all pieces out."""
        for piece in self.pieces:
            place = piece[1]
            if isinstance(place, Segment):
                (<Segment>place).pins -= 1
        self.pieces = []
        self.shares = []

    def __del__(self):
        self.clear()

    def __len__(self):
        return len(self.pieces)

    def __bool__(self):
        return bool(self.pieces or self.shares)
