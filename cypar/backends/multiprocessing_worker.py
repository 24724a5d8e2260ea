"""What runs in the worker processes of the 'multiprocessing' backend.

The Pool carries batches as bytes; claims, starts and small results go through one
`StatusPage` per *ticket*, the right to have one batch in flight. So the parent sees
which task runs and since when, takes unclaimed tasks back from a batch that is stuck,
and after a death still reads what was finished.
"""

from __future__ import annotations

import importlib
import os
import signal
import struct
import sys

from cypar.backends.pool import frames
from cypar.backends.worker_streams import flush_stdout, print_lines_at_once
from cypar.core import config_state
from cypar.core._process_loop import BatchRunner
from cypar.core._status_page import StatusPage, die_with_pipe
from cypar.core.interrupts import ignore_ctrl_c
from cypar.transport import serialize
from cypar.transport._channel import AS_BYTES
from cypar.transport.deltas import received
from cypar.transport.functions import ModuleChanged, decode
from cypar.transport.inbox import Inbox, Store
from cypar.transport.mappings import CannotAttachError, Mappings
from cypar.transport.returns import Returns
from cypar.transport.sharing import keep_shared

NOTE = struct.Struct("=qi")  # pid, ticket; less than PIPE_BUF, so written at once
IDLE = -1  # instead of a ticket: the worker is ready and runs nothing
NEWS = -2  # instead of a ticket: a result log has new records
DONE, CHANGED, BROKEN = "done", "changed", "broken"  # what a batch answers with
SLOT = 0  # a ticket uses one of its page's two slots
MAX_FUNCTIONS = 256  # functions a worker keeps


class Shared:
    """What all workers of one pool share with their parent.

    Parameters
    ----------
    pages : list of StatusPage
        By ticket.
    notes : Connection
        Where workers write notes.
    life : Connection
        Its other end is open while the parent lives.
    parents : list of Connection
        The parent's ends: a forked worker inherits and closes them.
    reduction : str
        Name of the module that sends descriptors to new processes.
    """

    def __init__(self, pages, notes, life, parents=(), reduction=""):
        self.pages = pages
        self.notes = notes
        self.life = life
        self.parents = parents
        self.reduction = reduction

    def __reduce__(self):
        # Only while a process is spawned; a forked worker gets the object itself.
        send = importlib.import_module(self.reduction).DupFd
        return _rebuild, ([send(page.fd) for page in self.pages], self.notes, self.life)


def _rebuild(descriptors, notes, life):
    return Shared([StatusPage(fd.detach()) for fd in descriptors], notes, life)


class _Server:
    """Runs batches in one worker."""

    def __init__(self, shared, level):
        print_lines_at_once()
        self.level = level
        self.notes_fd = shared.notes.fileno()
        self.pid = os.getpid()
        self.functions = {}  # by blob
        self.large = []  # results of the running batch that did not fit into the log
        self.page = None  # of the running batch, if it must lose no large results
        self.keep = shared
        self.limits = None
        self.forked = False  # this is a child that a task has forked
        parent = importlib.import_module("multiprocessing").parent_process()
        self.stores = [Store(Mappings(page, parent.pid)) for page in shared.pages]
        self.runners = [
            BatchRunner(
                page,
                Returns().dumps,
                _encode_error,
                self.make_flush(page),
                self.keep_large,
            )
            for page in shared.pages
        ]
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.leave_after_task)

    def leave_after_task(self):
        """In a forked child: end where its task returns; it is not the worker."""
        self.forked = True
        for runner in self.runners:
            runner.leave_after_task()

    def note(self, ticket):
        if self.forked:  # by what was loaded, or its task has broken off
            os._exit(1)
        os.write(self.notes_fd, NOTE.pack(self.pid, ticket))

    def make_flush(self, page):
        def flush():
            flush_stdout()
            if page.is_listening():
                self.note(NEWS)

        return flush

    def keep_large(self, slot, position, kind, data, seconds, buffers):
        if buffers is not None:
            # copies: the Pool pickles the answer when all tasks of the batch are done
            data = (
                data,
                [
                    bytes(buffer) if kind == AS_BYTES else bytearray(buffer)
                    for kind, buffer in buffers
                ],
            )
        self.large.append((position, kind, data, seconds))
        if self.page is not None:
            # It is lost if this process dies before the batch has ended: end it now.
            self.page.recall(SLOT, 0)

    def run(self, ticket, sequence, payload):
        """Run what is left of a batch; returns what the log did not take."""
        config_state.become_worker(self.level)  # drops settings a task left behind
        self.note(ticket)
        try:
            content = serialize.loads(payload)
            functions, extras, n_tasks, message, survives = content
            content = None
            store = self.stores[ticket]
            self.page = self.keep.pages[ticket] if survives else None
            for kind, number, *parts in extras:
                if kind == frames.SEGMENT:
                    store.mappings.learn(number, b"".join(parts))
                elif kind == frames.BASE:
                    received[number] = b"".join(parts)
                elif kind == frames.SHARED:
                    keep_shared(number, Inbox(b"".join(parts), 1, store))
            inbox = Inbox(message, n_tasks, store)
            payload = message = None
            try:
                changed = self.find_changed(functions)
                if changed is not None:
                    return changed
                if self.forked:  # by a function as it was loaded
                    os._exit(0)
                self.run_tasks(ticket, sequence, inbox, functions)
            finally:
                inbox.close()
            large, self.large = self.large, []
            return DONE, large
        finally:
            self.note(IDLE)

    def run_tasks(self, ticket, sequence, inbox, functions):
        mappings = inbox.store.mappings

        def load(position):
            function, args, kwargs = inbox.load_call(position)
            if function is None:
                function = self.get_function(*functions[inbox.tasks[position][0]])
            return function, args, kwargs

        let_go = mappings.after_task if inbox.pieces else None
        self.runners[ticket].run_tasks(SLOT, sequence, load, let_go)
        inbox.store.end_call()

    def find_changed(self, functions):
        """Load the functions; say so if a module is not the one the parent has."""
        for blob, mutable in functions.values():
            try:
                self.get_function(blob, mutable)
            except ModuleChanged as change:
                return CHANGED, (blob, change.module)
            except BaseException:
                continue  # raised again for each task that needs it
        return None

    def get_function(self, blob, mutable):
        if mutable:  # every task gets a fresh copy of what it may change
            return decode(blob)
        function = self.functions.get(blob)
        if function is None:
            if len(self.functions) >= MAX_FUNCTIONS:
                self.functions.clear()
            function = self.functions[blob] = decode(blob)
        return function


_server = None


def run_batch(ticket, sequence, payload):
    """Run one batch; the function that is given to the Pool.

    An exception may come between two tasks: a signal's handler of a task raises late.
    It travels as bytes, since the Pool's process would end of SystemExit, and cannot
    pickle all others.
    """
    try:
        return _server.run(ticket, sequence, payload)
    except BaseException as exc:
        from cypar.transport.failures import encode_failure

        large, _server.large = _server.large, []
        return BROKEN, (encode_failure(exc, None, (), {}), large)


def initialize(shared, level, n_threads, variables, pickling):
    """Make a new process a worker; the Pool's initializer.

    Parameters
    ----------
    shared : Shared
    level : int
        Nesting level of the tasks.
    n_threads : int
        For BLAS and OpenMP.
    variables : tuple of str
        Environment variables to set to it: not those that the user has set.
    pickling : bytes
        From `serialize.export_settings`.
    """
    global _server
    # The parent acts on Ctrl-C. A handler and not SIG_IGN, which the tasks' own
    # subprocesses would inherit; blocked while the process started.
    signal.signal(signal.SIGINT, ignore_ctrl_c)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    for connection in shared.parents:
        connection.close()
    for page in shared.pages:
        page.close_fd()
    _die_with_parent(shared.life)
    _reseed()
    serialize.import_settings(pickling)
    config_state.become_worker(level)
    _server = _Server(shared, level)
    _server.limits = _limit_threads(n_threads, variables)
    _server.note(IDLE)


def _die_with_parent(life):
    """Lead a process group that ends with the parent, even inside C code."""
    try:
        os.setpgid(0, 0)
        # A descriptor of its own for the pipe, since the setting is per open file.
        own = os.open(f"/proc/self/fd/{life.fileno()}", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return  # the worker then ends when it next reads from the parent
    die_with_pipe(own)


def _reseed():
    """Give a forked worker random numbers of its own."""
    if "random" in sys.modules:
        sys.modules["random"].seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()


def _limit_threads(n_threads, variables):
    for name in variables:
        os.environ[name] = str(n_threads)
    if "numpy" not in sys.modules and "threadpoolctl" not in sys.modules:
        return None
    import threadpoolctl  # a library with its own threads is loaded already

    return threadpoolctl.threadpool_limits(n_threads)


def _encode_error(exc, function, args, kwargs):
    if type(exc) is CannotAttachError:
        return None  # the task has not begun
    # needed only after a failure, and slow to import
    from cypar.transport.failures import encode_failure

    return encode_failure(exc, function, args, kwargs)
