"""Read a message of tasks in a worker, one task at a time.

Thread safety: one thread per worker process.
"""

from __future__ import annotations

from cypar.transport.deltas import drop_bases, load_large, restore
from cypar.transport.mappings import inline_piece
from cypar.transport.pieces import DELTA, INLINE, PACKED, PIECE, TASK


class Inbox:
    """The tasks of one message.

    Parameters
    ----------
    payload : bytes or bytearray
    n : int
        Tasks in it.
    store : Store
        What the parent sent before.
    """

    def __init__(self, payload, n, store):
        self.store = store
        self.view = memoryview(payload)
        self.tasks = list(TASK.iter_unpack(self.view[: n * TASK.size]))
        n_pieces = sum(task[1] for task in self.tasks)
        begin = n * TASK.size
        end = begin + n_pieces * PIECE.size
        self.pieces = list(PIECE.iter_unpack(self.view[begin:end]))
        self.places = []  # by task: (first piece, begin of the pickle)
        first = 0
        for _, count, _, size in self.tasks:
            self.places.append((first, end))
            first += count
            end += size
        self.inline = {}  # by piece: begin of its bytes
        for index, piece in enumerate(self.pieces):
            if piece[0] & INLINE:
                self.inline[index] = end
                end += piece[4]
        self.opened = [False] * n

    def function_ids(self):
        """Return the ids of the functions that the tasks name."""
        return {task[0] for task in self.tasks if task[0]}

    def load(self, position):
        """Return what the pickle of one task holds; can be called once for each."""
        _, n_pieces, flags, size = self.tasks[position]
        first, begin = self.places[position]
        data = self.view[begin : begin + size]
        if flags & DELTA:
            data = restore(data)
        self.opened[position] = True
        buffers = self._attach(first, n_pieces) if n_pieces else ()
        return load_large(data, buffers)

    def load_call(self, position):
        """Return (function, args, kwargs), the function None if it is to be found."""
        content = self.load(position)
        if self.tasks[position][2] & PACKED:
            return content
        return None, *content

    def _attach(self, first, n_pieces):
        mappings = self.store.mappings
        buffers = []
        index = first
        try:
            for index in range(first, first + n_pieces):
                kind, slot, number, offset, size = self.pieces[index]
                if kind & INLINE:
                    begin = self.inline[index]
                    piece = inline_piece(kind, self.view[begin : begin + size])
                else:
                    piece = mappings.attach(kind, slot, number, offset, size)
                buffers.append(piece)
        except BaseException:
            self._release(index + 1, first + n_pieces)
            raise
        return buffers

    def _release(self, begin, end):
        """End the leases of pieces that no task will use."""
        for kind, slot, _, _, _ in self.pieces[begin:end]:
            if not kind & INLINE:
                self.store.mappings.page.release(slot, 1)

    def close(self):
        """End the leases of tasks that were not loaded: the parent took them back."""
        if not self.pieces:
            return
        for position, opened in enumerate(self.opened):
            if not opened:
                first = self.places[position][0]
                self._release(first, first + self.tasks[position][1])


class Store:
    """What the parent sent for later messages to refer to."""

    def __init__(self, mappings):
        self.mappings = mappings

    def end_call(self):
        """Let go of what only the last call needed."""
        drop_bases()
        self.mappings.drop_bytes()
        self.mappings.sweep()
