"""The worker process: read a batch, run it, report; nothing else.

::

    socket --> STATE    follow the parent's directory, path, environment
               FUNCTION keep a pickled function until a task needs it
               COLUMNS  \\ run the batch: claim, call, log the result
               TASKS    /
               SEGMENT, BASE, SHARED   keep what later tasks refer to
               END      let go of it
    socket <-- NEWS     the result log has new records
               RESULT   one that is too large for the log

Imports core and transport only, so that a worker starts fast; numpy, cloudpickle
and `multiprocessing` are imported when a task needs them.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import select
import sys
from _signal import SIGINT, signal  # the module `signal` imports enum: 5 ms

from cypar.backends.pool import frames
from cypar.backends.pool.backoff import SPIN_NS, Backoff
from cypar.backends.worker_streams import flush_stdout, print_lines_at_once
from cypar.core import config_state
from cypar.core._process_loop import BatchRunner
from cypar.core._status_page import StatusPage, above_standard, die_with_pipe
from cypar.core.interrupts import ignore_ctrl_c
from cypar.core.worker_index import set_of_process
from cypar.transport import serialize
from cypar.transport._channel import Channel
from cypar.transport.deltas import drop_base, received
from cypar.transport.functions import ModuleChanged, decode
from cypar.transport.inbox import Inbox, Store
from cypar.transport.mappings import CannotAttachError, Mappings
from cypar.transport.returns import Returns
from cypar.transport.sharing import drop_shared, keep_shared

IDLE_TIMEOUT_S = 300.0  # a worker without work for this long leaves


class _Function:
    """A function as it came, and as loaded on its first use."""

    __slots__ = ("blob", "loaded", "mutable", "seen")

    def __init__(self, blob, mutable):
        self.blob = blob
        self.mutable = mutable
        self.loaded = None
        self.seen = False  # a batch has tried to load it

    def get(self):
        if self.mutable:  # every task gets a fresh copy of what it may change
            return decode(self.blob)
        if self.loaded is None:
            self.loaded = decode(self.blob)
        return self.loaded


class WorkerServer:
    """Serves one parent until its socket closes."""

    def __init__(self, channel, page, parent_pid):
        self.channel = channel
        self.page = page
        self.skip = Backoff()
        self.functions = {}
        self.level = 1
        self.mappings = Mappings(page, parent_pid)
        self.store = Store(self.mappings)
        self.runner = BatchRunner(
            page,
            Returns().dumps,
            _encode_error,
            self.tell,
            self.send_result,
        )
        os.register_at_fork(after_in_child=self.runner.leave_after_task)

    def tell(self):
        """Tell the parent that the result log has news, if it waits."""
        flush_stdout()
        if self.page.is_listening():
            self.channel.send(frames.NEWS)

    def send_result(self, slot, position, kind, data, seconds, buffers):
        """Send a result that does not fit into the log."""
        head = (frames.RESULT, slot, kind, position, seconds, data)
        if buffers is None:
            self.channel.send(*head)
        else:
            self.channel.send_buffers(*head, buffers)

    def serve(self):
        """Handle frames until the parent is gone or there is no work for long."""
        poll = select.poll()
        poll.register(self.channel.fd, select.POLLIN)
        while True:
            seen = self.page.rings()
            frame = self.channel.receive_ready()
            if frame is None:
                self.page.set_waiting(True)
                if not self.has_message(poll, seen):
                    return
                frame = self.channel.receive()
                self.page.set_waiting(False)
                if frame is None:
                    continue
            self.handle(*frame)
            frame = None  # the payload is not kept while waiting

    def has_message(self, poll, seen):
        """Wait for the parent; False if it has had no work for very long."""
        if poll.poll(0):
            return True
        if self.skip.due():
            rung = self.page.spin_for_ring(seen, SPIN_NS)
            self.skip.note(rung)
            if rung:
                return True
        return bool(poll.poll(IDLE_TIMEOUT_S * 1000))

    def handle(self, kind, slot, flags, number, seconds, payload):
        if kind == frames.COLUMNS:
            self.run_columns(slot, flags, number, payload)
        elif kind == frames.TASKS:
            self.run_tasks(slot, flags, number, payload)
        elif kind == frames.FUNCTION:
            self.functions[number] = _Function(payload, flags == 1)
        elif kind == frames.SETUP:
            self.set_up(payload)
        elif kind == frames.STATE:
            self.follow(serialize.loads(payload))
        elif kind == frames.FORGET:
            self.functions.clear()
        elif kind == frames.SEGMENT:
            self.mappings.learn(number, payload)
        elif kind == frames.BASE:
            received[number] = payload
        elif kind == frames.DROP:
            drop_base(number)
        elif kind == frames.SHARED:
            keep_shared(number, Inbox(payload, 1, self.store))
        elif kind == frames.END:
            self.end_call(*serialize.loads(payload))

    def set_up(self, payload):
        """Call the user's initializer; without it no task can run here."""
        self.start_batch()
        initializer, initargs = None, ()
        try:
            initializer, initargs = serialize.loads(payload)
            initializer(*initargs)
        except BaseException as exc:
            error = _encode_error(exc, initializer, initargs, {})
            self.channel.send(frames.SETUP_FAILED, 0, 0, 0, 0.0, error)
            raise EOFError from None  # the parent ends the call
        self.channel.send(frames.SETUP_DONE)

    def start_batch(self):
        """Drop settings that a task has left behind."""
        config_state.become_worker(self.level)

    def run_columns(self, slot, sequence, number, payload):
        self.start_batch()
        columns = serialize.loads(payload)
        try:
            function = self.load_function(number)
        except BaseException as exc:
            error = exc  # `exc` is unbound at the end of this block

            def load(position):
                raise error

            self.runner.run_tasks(slot, sequence, load)
        else:
            self.runner.run_columns(slot, sequence, function, columns)

    def load_function(self, number):
        """Return the function, or end this process if its module is another one."""
        try:
            return self.functions[number].get()
        except ModuleChanged as change:
            # The parent starts another worker for what is not yet claimed.
            self.channel.send(
                frames.CHANGED,
                0,
                int(change.was_loaded),
                number,
                0.0,
                change.module.encode(),
            )
            os._exit(0)

    def run_tasks(self, slot, sequence, n, payload):
        self.start_batch()
        inbox = Inbox(payload, n, self.store)
        for number in inbox.function_ids():
            if not self.functions[number].seen:
                self.functions[number].seen = True
                try:
                    self.load_function(number)
                except Exception:
                    pass  # raised again for each task that needs it

        def load(position):
            function, args, kwargs = inbox.load_call(position)
            if function is None:
                function = self.functions[inbox.tasks[position][0]].get()
            return function, args, kwargs

        if not inbox.pieces:
            self.runner.run_tasks(slot, sequence, load)
            return
        self.mappings.collect_if_asked()
        try:
            self.runner.run_tasks(slot, sequence, load, self.mappings.after_task)
        finally:
            inbox.close()

    def end_call(self, slots, shares):
        """Let go of what only the last call needed, and of what is no more."""
        drop_shared(shares)
        self.store.end_call()
        self.mappings.close_slots(slots)

    # ---- following the parent -----------------------------------------------------

    def follow(self, changes):
        """Apply what changed in the parent."""
        for name, value in changes.get("environ", ()):
            if value is None:
                os.environb.pop(name, None)
            else:
                os.environb[name] = value
        if "path" in changes:
            sys.path[:] = changes["path"]
        if "argv" in changes:
            sys.argv[:] = changes["argv"]
        if "cwd" in changes:
            try:
                os.chdir(changes["cwd"])
            except OSError as exc:
                print(f"cypar worker stays in its directory: {exc}", file=sys.stderr)
        if "umask" in changes:
            os.umask(changes["umask"])
        if "pickling" in changes:
            serialize.import_settings(changes["pickling"])
        if "authkey" in changes:
            _join_multiprocessing(*changes["authkey"])
        if "index" in changes:
            set_of_process(changes["index"])
        if "level" in changes:
            self.level = changes["level"]
        if "threads" in changes:
            self.limit_threads(*changes["threads"])

    def limit_threads(self, n_threads, variables):
        """Let BLAS and OpenMP use ``n_threads``; ``variables`` the user left unset."""
        for name in variables:
            os.environ[name] = str(n_threads)
        if "numpy" in sys.modules or "threadpoolctl" in sys.modules:
            import threadpoolctl  # a library with its own threads is loaded already

            for library in threadpoolctl.ThreadpoolController().lib_controllers:
                n = threads_of(library.internal_api, n_threads)
                if library.num_threads != n:
                    library.set_num_threads(n)


def threads_of(library, n_threads):
    """Return how many threads a loaded library may use: the user's own number first.

    The variables hold ``n_threads`` where he has set none. The library may have been
    loaded before they were set.
    """
    for name in (f"{library.upper()}_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > 0:
            return int(value)
    return n_threads


def _encode_error(exc, function, args, kwargs):
    if type(exc) is CannotAttachError:
        return None  # the task has not begun
    if _spare_fd >= 0:
        os.close(_spare_fd)  # an import needs one; the task may have used up all others
    try:
        # needed only after a failure, and slow to import
        from cypar.transport.failures import encode_failure

        return encode_failure(exc, function, args, kwargs)
    finally:
        _keep_spare_descriptor()


_spare_fd = -1


def _keep_spare_descriptor():
    global _spare_fd
    try:
        _spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # there are none left, or no such file
        _spare_fd = -1


def _join_multiprocessing(authkey, tracker_fd, parent_pid):
    """Use the parent's key and resource tracker, for managers and shared memory."""
    from multiprocessing import process, resource_tracker  # slow, only when needed

    process.current_process().authkey = authkey
    tracker = resource_tracker._resource_tracker
    if tracker_fd is not None and tracker._fd is None:
        try:
            tracker._fd = os.open(f"/proc/{parent_pid}/fd/{tracker_fd}", os.O_WRONLY)
        except OSError:
            return  # the worker then starts a tracker of its own when it needs one


def main(channel_fd, page_fd, life_fd, parent_pid, stderr_fd):
    """Run the worker; called by the command line that `spawn` writes, or forked.

    Parameters
    ----------
    channel_fd, page_fd, life_fd : int
    parent_pid : int
        The process that has the other ends; not our parent if we were forked.
    stderr_fd : int
        What is stderr once we are ready.
    """
    os.set_inheritable(channel_fd, False)
    # A descriptor of its own for the pipe, since the setting is per open file.
    own = os.open(f"/proc/self/fd/{life_fd}", os.O_RDONLY | os.O_NONBLOCK)
    own = above_standard(own)
    os.close(life_fd)
    die_with_pipe(own)
    channel = Channel(channel_fd, True)
    page = StatusPage(page_fd)
    page.close_fd()
    # The parent acts on Ctrl-C. A handler and not SIG_IGN, which tasks' own
    # subprocesses would inherit.
    signal(SIGINT, ignore_ctrl_c)
    channel.send(frames.READY, 0, 0, os.getpid())
    os.dup2(stderr_fd, 2)
    os.close(stderr_fd)
    faulthandler.enable(file=2)  # sys.stderr may be another file, or None
    print_lines_at_once()
    _keep_spare_descriptor()
    status = 1
    try:
        WorkerServer(channel, page, parent_pid).serve()
        status = 0
    except (EOFError, BrokenPipeError):
        status = 0  # the parent has gone
    except BaseException:
        sys.excepthook(*sys.exc_info())  # no task's: those are caught
    finally:
        _leave(status)


def _leave(status):
    """End without the interpreter's own end: no user thread can hold us up."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass  # the terminal is gone
    os._exit(status)
