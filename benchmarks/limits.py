"""What the machine itself needs: contenders that no library can beat by much."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

from harness import N_JOBS, Contender
from workloads import echo

import cypar

ECHO = str(Path(__file__).parent / "probes" / "echo.py")
MESSAGE_SIZE = 64  # bytes: about one task tuple of a known function
WINDOW = 16  # messages on their way at once, where they are pipelined


# ---- two threads ---------------------------------------------------------------------


def futex_round_trip(n):
    """Wake a thread and be woken by it: on Linux a lock of Python is one futex."""
    return Contender("futex round trip", "limit", lambda: _lock_ping_pong(n), n=n)


@contextmanager
def _lock_ping_pong(n):
    there, back = threading.Lock(), threading.Lock()
    there.acquire()
    back.acquire()
    ended = False

    def answer():
        while True:
            there.acquire()
            if ended:
                return
            back.release()

    def trips():
        for _ in range(n):
            there.release()
            back.acquire()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield trips
    finally:
        ended = True
        there.release()
        thread.join()


def bare_threads(run_part, n):
    """Do the tasks in two threads that share nothing: ``run_part(part, range)``."""
    half = -(-n // N_JOBS)

    def run():
        threads = [
            threading.Thread(
                target=run_part, args=(k, range(k * half, min(n, (k + 1) * half)))
            )
            for k in range(N_JOBS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return Contender.simple("bare threads", "limit", run, n=n)


# ---- two processes -------------------------------------------------------------------


def pipe_round_trip(n):
    """Send one byte to another process and get one back, by two pipes."""
    return Contender("pipe round trip", "limit", lambda: _pipe_ping_pong(n), n=n)


@contextmanager
def _pipe_ping_pong(n):
    command = [sys.executable, "-I", "-S", ECHO, "pipe"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as process:
        send, receive = process.stdin.write, process.stdout.read

        def trips():
            for _ in range(n):
                send(b"x")
                receive(1)

        yield trips
        # Pools that forked meanwhile may hold its stdin: it would see no end of file.
        process.kill()


def socket_message(n, size=MESSAGE_SIZE, name="pipelined socket message"):
    """Send messages to another process that answers each, many on their way at once."""
    return Contender(name, "limit", lambda: _socket_stream(n, size), n=n)


@contextmanager
def _socket_stream(n, size):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-I", "-S", ECHO, "socket", str(theirs.fileno())]
    with ours, subprocess.Popen(command, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        message = bytes(size)

        def stream():
            for _ in range(min(WINDOW, n)):
                ours.send(message)
            for _ in range(n - WINDOW):
                ours.recv(MESSAGE_SIZE)
                ours.send(message)
            for _ in range(min(WINDOW, n)):
                ours.recv(MESSAGE_SIZE)

        yield stream
        process.kill()


# ---- one thread ----------------------------------------------------------------------


def pickle_task(n, function=echo):
    """Pickle each task tuple by itself and load it again."""
    dumps, loads = pickle.dumps, pickle.loads

    def both_ways():
        for i in range(n):
            loads(dumps((function, (i,), {}), 5))

    return Contender.simple("pickling a task both ways", "limit", both_ways, n=n)


def pickle_batches(n, function=echo, size=1000):
    """Pickle and load lists of task tuples, and then lists of their results.

    The lower limit of the two: the function's name is written once for each list.
    """
    dumps, loads = pickle.dumps, pickle.loads

    def both_ways():
        for start in range(0, n, size):
            indexes = range(start, min(start + size, n))
            loads(dumps([(function, (i,), {}) for i in indexes], 5))
            loads(dumps(list(indexes), 5))

    return Contender.simple("pickling batches both ways", "limit", both_ways, n=n)


def build_tuples(n):
    """Build the task tuples, with cypar's compiled `delayed`, and drop them."""
    delayed = cypar.delayed

    def build():
        for _ in (delayed(echo)(i) for i in range(n)):
            pass

    return Contender.simple("task tuples", "limit", build, n=n)


def build_and_call(n):
    """Build the task tuples and call them in a plain loop, keeping the results."""
    delayed = cypar.delayed

    def build():
        return [f(*args) for f, args, _ in (delayed(echo)(i) for i in range(n))]

    return Contender.simple("tuples and calls", "limit", build, n=n)


def plain_loop(run, n, name="plain loop"):
    """Return the work without any library, in one thread: what others refer to."""
    return Contender.simple(name, "plain", run, n=n)
