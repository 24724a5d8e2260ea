"""The compiled loop that runs a batch of tasks in a worker process.

For each task: claim it on the status page, call it, put the result into the result
log or, when it is large, on the socket; only then claim the next. The parent is
told (`flush`) at the end of the batch, and earlier when results have waited long.

Thread safety: one thread per worker process.
"""

from os import _exit

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject_Call, PyObject_CallObject
from libc.stdint cimport int64_t

from cypar.core._port cimport port_monotonic_ns
from cypar.core._status_page cimport StatusPage

from cypar.core._status_page import (
    KIND_ERROR as _KIND_ERROR, MAX_LOG_RESULT as _MAX_LOG_RESULT,
)

cdef enum:
    NONE = 0
    TRUE = 1
    FALSE = 2
    INT = 3
    FLOAT = 4
    PICKLE = 5
    ERROR = 6
    REFUSED = 8

assert _KIND_ERROR == ERROR
cdef Py_ssize_t MAX_LOG_RESULT = _MAX_LOG_RESULT
cdef int64_t LINGER_NS = 1_000_000  # results wait at most about this long for others


cdef class BatchRunner:
    """Runs batches for one worker process.

    Parameters
    ----------
    page : StatusPage
    dumps : callable
        value -> bytes, or (bytes, list of large buffers).
    encode_error : callable
        (exception, function, args, kwargs) -> bytes, or None if the task was not
        started and should run elsewhere.
    flush : callable
        Tells the parent that the log has news.
    send : callable
        (slot, position, kind, data, seconds, buffers): sends one result over the
        socket.
    """

    cdef StatusPage page
    cdef object dumps, encode_error, flush, send
    cdef int64_t flushed_ns
    cdef bint forked  # this is a child that a task has forked

    def __init__(self, StatusPage page, dumps, encode_error, flush, send):
        self.page = page
        self.dumps = dumps
        self.encode_error = encode_error
        self.flush = flush
        self.send = send

    def leave_after_task(self):
        """In a forked child: end where its task returns; it is not the worker."""
        self.forked = True

    def run_columns(self, int slot, int sequence, function, list columns):
        """Run a batch of one function over plain positional arguments."""
        cdef int64_t start = port_monotonic_ns(), now
        cdef Py_ssize_t position
        cdef object value, args
        self.flushed_ns = start
        while True:
            position = self.page.claim(slot, sequence, start)
            if position < 0:
                break
            args = columns[position]
            columns[position] = None
            try:
                value = PyObject_CallObject(function, <tuple>args)
            except BaseException as exc:
                now = port_monotonic_ns()
                self.fail(slot, position, exc, function, args, {}, (now - start) * 1e-9)
            else:
                now = port_monotonic_ns()
                self.store(slot, position, value, (now - start) * 1e-9, function, args)
            value = args = None
            start = self.tell(now)
        self.flush()

    def run_tasks(self, int slot, int sequence, load, let_go=None):
        """Run a batch whose tasks ``load(position) -> (function, args, kwargs)``.

        ``let_go()``, if given, is called when a task's arguments and its result have
        been dropped: memory of the parent that they were in can be used again.
        """
        cdef int64_t start = port_monotonic_ns(), now
        cdef Py_ssize_t position
        cdef object value
        self.flushed_ns = start
        while True:
            position = self.page.claim(slot, sequence, start)
            if position < 0:
                break
            function = None
            args = ()
            kwargs = {}
            try:
                function, args, kwargs = load(position)
                if kwargs:
                    value = PyObject_Call(function, args, kwargs)
                else:
                    value = PyObject_CallObject(function, args)
            except BaseException as exc:
                now = port_monotonic_ns()
                self.fail(
                    slot, position, exc, function, args, kwargs, (now - start) * 1e-9
                )
            else:
                now = port_monotonic_ns()
                if let_go is not None and not self.forked:
                    # before a large result is sent: then the next task is drawn
                    args = kwargs = function = None
                    let_go()
                self.store(slot, position, value, (now - start) * 1e-9, function, args)
            value = args = kwargs = function = None
            if let_go is not None and not self.forked:
                let_go()
            start = self.tell(now)
        self.flush()

    cdef int64_t tell(self, int64_t now) except -1:
        """Tell the parent if results have waited; returns the next task's start."""
        if now - self.flushed_ns > LINGER_NS:
            self.flush()
            self.flushed_ns = port_monotonic_ns()
            return self.flushed_ns
        return now

    cdef int store(self, int slot, Py_ssize_t position, object value, double seconds,
                   object function, object args) except -1:
        cdef int64_t number
        cdef double real
        cdef object kind = type(value)
        cdef bint stored = False
        if self.forked:
            _exit(0)
        if value is None:
            stored = self.page.append(NONE, slot, position, seconds, NULL, 0)
        elif value is True:
            stored = self.page.append(TRUE, slot, position, seconds, NULL, 0)
        elif value is False:
            stored = self.page.append(FALSE, slot, position, seconds, NULL, 0)
        elif kind is float:
            real = value
            stored = self.page.append(
                FLOAT, slot, position, seconds, <const char*>&real, 8
            )
        elif kind is int and -(1 << 62) < value < (1 << 62):
            number = value
            stored = self.page.append(
                INT, slot, position, seconds, <const char*>&number, 8
            )
        if stored:
            return 0
        try:
            data = self.dumps(value)
        except BaseException as exc:
            return self.fail(slot, position, exc, function, args, {}, seconds)
        if type(data) is tuple:
            data, buffers = data
            self.send(slot, position, PICKLE, data, seconds, buffers)
            return 0
        return self.store_bytes(PICKLE, slot, position, data, seconds)

    cdef int fail(self, int slot, Py_ssize_t position, object exc, object function,
                  object args, object kwargs, double seconds) except -1:
        if self.forked:
            _exit(1)
        data = self.encode_error(exc, function, args or (), kwargs or {})
        if data is None:
            self.send(slot, position, REFUSED, b"", 0.0, None)
            return 0
        return self.store_bytes(ERROR, slot, position, data, seconds)

    cdef int store_bytes(self, int kind, int slot, Py_ssize_t position, bytes data,
                         double seconds) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        if size > MAX_LOG_RESULT or not self.page.append(
            kind, slot, position, seconds, PyBytes_AS_STRING(data), size
        ):
            self.send(slot, position, kind, data, seconds, None)
        return 0
