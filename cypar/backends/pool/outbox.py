"""What one worker must get before it can read a message of tasks.

Segments, shared objects and bytes that patches are made on are sent once; the outbox
remembers what the worker has. It also keeps the worker's leases.

Thread safety: the thread of the call that has the worker.
"""

from __future__ import annotations

import os
from _pickle import dumps as plain_dumps

from cypar.backends.pool import frames
from cypar.transport import sharing
from cypar.transport.deltas import MAX_BASES, Base
from cypar.transport.pieces import INLINE, PIECE, SEGMENT, TASK


class Outbox:
    """Sends to one worker.

    Parameters
    ----------
    send : callable
        (type of frame, number, *payload)
    leases : Leases

    Attributes
    ----------
    inline : bool
        The worker cannot map segments: it gets the bytes themselves.
    """

    def __init__(self, send, leases):
        self.send = send
        self.leases = leases
        self.inline = False
        self.segments = {}  # slot -> (serial, capacity) that the worker knows
        self.bases = {}  # number -> Base that the worker has, the last used last
        self.shares = set()  # numbers of the shared objects that the worker has
        self.unmapped = set()  # those of them that it may not be able to map
        self.used = False  # the worker has something to let go of after the call

    def put(self, parcel, pieces, tail):
        """Append the pieces of a parcel to a message's table; returns how many."""
        self.used = True
        for shared in parcel.shares:
            if type(shared) is Base:
                self._need_base(shared)
            elif shared.number not in self.shares or shared.number in self.unmapped:
                self._send_shared(shared)
        for kind, place, number, offset, size in parcel.pieces:
            slot = 0
            if not kind & INLINE:
                slot = None if self.inline else self._lend(place)
                if slot is None:
                    kind |= INLINE
                    place = place.read(offset, size)
                    slot = number = offset = 0
            if kind & INLINE:
                tail.append(place)
            pieces.append(PIECE.pack(kind, slot, number, offset, size))
        return len(parcel.pieces)

    def _lend(self, segment):
        """Begin a lease; returns the segment's slot, or None if all are taken."""
        slot = self.leases.lend(segment)
        known = (segment.serial, segment.capacity)
        if slot is not None and self.segments.get(slot) != known:
            self.segments[slot] = known
            # on systems without /proc, segments have names
            payload = SEGMENT.pack(segment.fd, segment.capacity, segment.inode)
            if segment.path is not None:
                payload += os.fsencode(segment.path)
            self.send(frames.SEGMENT, slot, payload)
        return slot

    def _send_shared(self, shared):
        data, parcel = shared.captured
        pieces, tail = [], []
        n_pieces = self.put(parcel, pieces, tail) if parcel is not None else 0
        head = TASK.pack(0, n_pieces, 0, len(data))
        parts = (b"".join([head, *pieces]), data, *tail)
        self.send(frames.SHARED, shared.number, *parts)
        self.shares.add(shared.number)
        self.unmapped.discard(shared.number)

    def refused(self):
        """Send the bytes themselves from now on, those of shared objects again."""
        self.inline = True
        self.unmapped = set(self.shares)

    def patch(self, patch):
        """Return a patch as bytes; sends what it is made on if the worker lacks it."""
        self._need_base(patch.base)
        return patch.encoded()

    def _need_base(self, base):
        self.used = True
        if self.bases.pop(base.number, None) is None:
            self.send(frames.BASE, base.number, base.data)
        self.bases[base.number] = base

    def finish_message(self):
        """Let the worker drop what the message is the last one to need."""
        while len(self.bases) > MAX_BASES:
            number = next(iter(self.bases))
            del self.bases[number]
            self.send(frames.DROP, number)

    def end_call(self):
        """Let the worker forget what only this call needed."""
        if not self.used and not self.leases.has_closed():
            return
        self.used = False
        self.bases = {}
        live = {shared.number for shared in list(sharing.shared.values())}
        dead = [number for number in self.shares if number not in live]
        self.shares.difference_update(dead)
        self.unmapped.difference_update(dead)
        closed = self.leases.take_closed()
        for slot in closed:
            self.segments.pop(slot, None)
        self.send(frames.END, 0, plain_dumps((closed, dead), 5))

    def drop(self):
        """End all leases: the worker is gone."""
        self.leases.drop()
