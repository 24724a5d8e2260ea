"""Framed messages over a stream socket between the parent and one worker.

A frame is a header of 24 bytes (type, slot, flags, a number, a time and the size of
the payload) and the payload. Large buffers may follow: the size is then marked, and
the payload begins with a table of their sizes. Each of them is received into memory
of its own, with no copy in between. The parent's side never blocks: what the socket
does not take is queued, and the parent always reads, so two sides that send large
data at the same time cannot deadlock. The worker's side blocks.

Thread safety: one thread at a time on each side.
"""

from collections import deque
from sys import byteorder as _byteorder

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove
from posix.unistd cimport close

from cypar.core._port cimport (
    port_huge_pages, port_recv, port_send, port_socketpair,
)

cdef struct Header:
    uint8_t type
    uint8_t slot
    uint16_t flags
    uint32_t number
    double seconds
    uint64_t size

cpdef enum:
    # what a buffer is received as
    AS_MEMORY = 0     # whatever `allocate` gives
    AS_BYTES = 1
    AS_BYTEARRAY = 2

cdef struct BufferEntry:
    uint64_t kind
    uint64_t size

cdef uint64_t WITH_BUFFERS = <uint64_t>1 << 63  # in a header's size
cdef size_t BUFFER_BYTES = 1 << 16
# Blocks up to this size stay with the process when they are freed.
cdef size_t KEPT_BYTES = 1 << 20
# A payload up to this size is joined with its header: one system call, one copy.
cdef Py_ssize_t JOIN_BYTES = 1 << 14


# glibc gives every freed block above 128 kB back to the system, which hands it out
# again page by page, until a larger one has been freed: that raises its limit
# (mallopt(3), M_MMAP_THRESHOLD). It was 6 of 9 us of system time per input of 10 kB.
PyMem_RawFree(PyMem_RawMalloc(KEPT_BYTES))


def socketpair():
    """Two connected stream sockets, as descriptors, closed on exec."""
    cdef int fds[2]
    cdef int status = port_socketpair(fds)
    if status < 0:
        raise OSError(-status, "cannot make a socket pair for a worker")
    return fds[0], fds[1]


cdef class Channel:
    """One side of the connection.

    Parameters
    ----------
    fd : int
        Socket; owned by this object.
    waits : bool
        True for the worker: `send` and `receive` block. False for the parent.
    """

    cdef readonly int fd
    cdef bint waits
    cdef char* buffer
    cdef size_t begin, end          # unread bytes in buffer
    cdef bint drained               # the last read took all that there was
    cdef Header header              # of the large frame that is being read
    cdef object payload             # of that frame, once it is complete
    cdef list targets               # memory for the large parts; the first is filled
    cdef list buffers               # of the frame, complete
    cdef bint head_is_large         # the first target tells which others follow
    cdef Py_ssize_t filled          # bytes of the first target that have arrived
    cdef public object allocate     # size -> writable buffer; None for a bytearray
    cdef object outgoing            # deque of [data, offset] that wait for room
    cdef readonly Py_ssize_t outgoing_bytes

    def __cinit__(self, int fd, bint waits):
        self.fd = fd
        self.waits = waits
        self.outgoing = deque()
        self.targets = []
        self.buffers = []
        self.buffer = <char*>malloc(BUFFER_BYTES)
        if self.buffer == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.buffer)
        if self.fd >= 0:
            close(self.fd)

    def close(self):
        """Close the socket. Idempotent."""
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1
        self.outgoing.clear()
        self.outgoing_bytes = 0

    # ---- sending ---------------------------------------------------------------

    def send(self, int type, int slot=0, int flags=0, number=0, double seconds=0.0,
             *parts):
        """Send one frame whose payload is ``parts`` (bytes-like), joined.

        Raises
        ------
        BrokenPipeError
            When the other side is gone.
        """
        self.send_parts(type, slot, flags, number, seconds, parts, 0)

    def send_buffers(self, int type, int slot, int flags, number, double seconds,
                     data, list buffers):
        """Send one frame that large buffers follow, given as (AS_..., bytes-like).

        The other side gets the payload ``(data, [buffer, ...])``. Only for the side
        that waits: the buffers may be changed afterwards.
        """
        cdef BufferEntry entry
        cdef list table = [len(buffers).to_bytes(8, _byteorder)]
        for kind, buffer in buffers:
            entry.kind = kind
            entry.size = len(buffer)
            table.append(PyBytes_FromStringAndSize(<char*>&entry, sizeof(BufferEntry)))
        head = b"".join(table)
        self.send_parts(type, slot, flags, number, seconds, (head, data), WITH_BUFFERS)
        for _, buffer in buffers:
            self.write(buffer)

    cdef int send_parts(self, int type, int slot, int flags, number, double seconds,
                        tuple parts, uint64_t mark) except -1:
        cdef Header header
        cdef Py_ssize_t size = 0
        for part in parts:
            size += len(part)
        header.type = <uint8_t>type
        header.slot = <uint8_t>slot
        header.flags = <uint16_t>flags
        header.number = <uint32_t>number
        header.seconds = seconds
        header.size = <uint64_t>size | mark
        head = PyBytes_FromStringAndSize(<char*>&header, sizeof(Header))
        if size <= JOIN_BYTES:
            self.write(b"".join((head, *parts)) if size else head)
            return 0
        self.write(head)
        for part in parts:
            self.write(part)
        return 0

    cdef int write(self, object data) except -1:
        cdef Py_buffer view
        cdef Py_ssize_t offset = 0
        if self.outgoing:
            return self.queue(data, 0)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            offset = self.push(<char*>view.buf, view.len)
            if offset < view.len:
                self.queue(data, offset)
        finally:
            PyBuffer_Release(&view)
        return 0

    cdef int queue(self, object data, Py_ssize_t offset) except -1:
        self.outgoing.append([data, offset])
        self.outgoing_bytes += len(data) - offset
        return 0

    cdef Py_ssize_t push(self, const char* data, Py_ssize_t size) except -1:
        """Send what the socket takes (all of it when this side waits)."""
        cdef Py_ssize_t offset = 0, n
        cdef bint waits = self.waits
        cdef int fd = self.fd
        while offset < size:
            if waits or size > JOIN_BYTES:
                with nogil:  # GIL OUT: may wait, or copies much
                    n = port_send(fd, data + offset, size - offset, waits)
            else:
                n = port_send(fd, data + offset, size - offset, False)
            if n >= 0:
                offset += n
            elif n == -EAGAIN:
                break
            elif n == -EINTR:
                PyErr_CheckSignals()
            else:
                raise BrokenPipeError(-n, "the other side of the channel is gone")
        return offset

    def send_queued(self):
        """Send more of what waits; True when nothing waits any more."""
        cdef Py_buffer view
        cdef Py_ssize_t n
        while self.outgoing:
            entry = self.outgoing[0]
            PyObject_GetBuffer(entry[0], &view, PyBUF_SIMPLE)
            try:
                n = self.push(<char*>view.buf + <Py_ssize_t>entry[1],
                              view.len - <Py_ssize_t>entry[1])
                entry[1] += n
                self.outgoing_bytes -= n
                if entry[1] < view.len:
                    return False
            finally:
                PyBuffer_Release(&view)
            self.outgoing.popleft()
        return True

    # ---- receiving -------------------------------------------------------------

    def receive_ready(self):
        """The next frame if all of it is in the buffer already, else None."""
        cdef Header header
        cdef size_t available = self.end - self.begin
        if not self.targets and available >= sizeof(Header):
            memcpy(&header, self.buffer + self.begin, sizeof(Header))
            if header.size <= available - sizeof(Header):
                return self.receive()
        return None

    def receive(self):
        """The next frame as (type, slot, flags, number, seconds, payload).

        None when nothing complete has arrived (never when this side waits).

        Raises
        ------
        EOFError
            When the other side is gone and everything that it sent has been read.
        """
        cdef Header header
        cdef Py_ssize_t available
        cdef uint64_t mark
        while True:
            if self.targets:
                if not self.fill_targets():
                    return None
                return self.large_frame()
            available = self.end - self.begin
            if available >= <Py_ssize_t>sizeof(Header):
                memcpy(&header, self.buffer + self.begin, sizeof(Header))
                mark = header.size & WITH_BUFFERS
                header.size ^= mark
                if header.size <= available - sizeof(Header):
                    self.begin += sizeof(Header)
                    payload = PyBytes_FromStringAndSize(
                        self.buffer + self.begin, header.size
                    )
                    self.begin += header.size
                    if mark:
                        self.header = header
                        self.expect_buffers(payload)
                        continue
                    return self.frame(header, payload)
                if header.size + sizeof(Header) > BUFFER_BYTES:
                    self.begin += sizeof(Header)
                    self.header = header
                    self.head_is_large = mark != 0
                    self.expect(PyByteArray_FromStringAndSize(NULL, header.size))
                    continue
            if not self.fill():
                return None

    cdef object frame(self, Header header, object payload):
        return (
            header.type, header.slot, header.flags, header.number, header.seconds,
            payload,
        )

    cdef object large_frame(self):
        """The frame whose last part has arrived."""
        if self.payload is None:
            payload = self.buffers[0]
        else:
            payload = (self.payload, self.buffers)
        self.buffers = []
        self.payload = None
        return self.frame(self.header, payload)

    cdef int expect(self, object target) except -1:
        self.targets.append(target)
        self.filled = 0
        return 0

    cdef int expect_buffers(self, object payload) except -1:
        """Make memory for the buffers that follow a payload."""
        cdef BufferEntry entry
        cdef Py_ssize_t n = int.from_bytes(payload[:8], _byteorder), begin = 8
        for _ in range(n):
            memcpy(&entry, PyBytes_AS_STRING(bytes(payload[begin:begin + 16])), 16)
            begin += 16
            self.expect(self.memory(entry.kind, entry.size))
        self.payload = payload[begin:]
        return 0

    cdef object memory(self, uint64_t kind, Py_ssize_t size):
        if kind == AS_BYTES:
            target = PyBytes_FromStringAndSize(NULL, size)
            port_huge_pages(PyBytes_AS_STRING(target), size)
        elif kind == AS_BYTEARRAY or self.allocate is None:
            target = PyByteArray_FromStringAndSize(NULL, size)
            port_huge_pages(PyByteArray_AS_STRING(target), size)
        else:
            target = self.allocate(size)
        return target

    cdef bint fill_targets(self) except -1:
        """Read more of the large parts straight into place; True when complete."""
        cdef Py_buffer view
        cdef bint complete
        while self.targets:
            target = self.targets[0]
            # bytes are not known to anybody yet, so they may be written
            PyObject_GetBuffer(target, &view, PyBUF_SIMPLE)
            try:
                complete = self.fill_target(<char*>view.buf, view.len)
            finally:
                PyBuffer_Release(&view)
            if not complete:
                return False
            self.buffers.append(self.targets.pop(0))
            self.filled = 0
            if self.head_is_large:
                self.head_is_large = False
                self.expect_buffers(self.buffers.pop())
        return True

    cdef bint fill_target(self, char* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t n = min(size - self.filled, <Py_ssize_t>(self.end - self.begin))
        cdef int fd = self.fd
        cdef bint waits = self.waits
        if n > 0:  # what was read together with the header
            memcpy(data + self.filled, self.buffer + self.begin, n)
            self.begin += n
            self.filled += n
        self.drained = False
        while self.filled < size:
            with nogil:  # GIL OUT: may wait, and copies much
                n = port_recv(fd, data + self.filled, size - self.filled, waits)
            if n == -EINTR:
                PyErr_CheckSignals()
                continue
            if not self.received(n):
                return False
            self.filled += n
        return True

    cdef bint fill(self) except -1:
        """Read what has arrived into the buffer; False when nothing has."""
        cdef Py_ssize_t n
        cdef int fd = self.fd
        if self.drained and not self.waits:
            self.drained = False
            return False  # saves the system call that would say so
        if self.begin > 0:
            memmove(self.buffer, self.buffer + self.begin, self.end - self.begin)
            self.end -= self.begin
            self.begin = 0
        while True:
            if self.waits:
                with nogil:  # GIL OUT: waits for the parent
                    n = port_recv(fd, self.buffer + self.end,
                                  BUFFER_BYTES - self.end, True)
            else:
                n = port_recv(fd, self.buffer + self.end,
                              BUFFER_BYTES - self.end, False)
            if n == -EINTR:
                PyErr_CheckSignals()
                continue
            if not self.received(n):
                return False
            self.drained = n < <Py_ssize_t>(BUFFER_BYTES - self.end)
            self.end += n
            return True

    cdef bint received(self, Py_ssize_t n) except -1:
        """Judge what recv returned: True for data, False for none yet."""
        if n > 0:
            return True
        if n == -EAGAIN:
            return False
        raise EOFError("the other side of the channel is gone")
