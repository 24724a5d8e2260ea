"""A stand-in for a worker: a fresh Python with this process's sys.path."""

import select
import sys
import textwrap
import threading

import pytest

from cypar.transport._channel import Channel, socketpair
from cypar.transport.functions import FunctionTable

PROGRAM = """
import os, sys
folder, sys.path[:] = sys.argv[1], sys.argv[2:]
from cypar.transport.serialize import dumps_result, loads
with open(os.path.join(folder, "sent"), "rb") as file:
    sent = file.read()
{body}
with open(os.path.join(folder, "answer"), "wb") as file:
    file.write(answer)
"""


@pytest.fixture
def in_worker(run_python, tmp_path):
    """Return a function: run ``body``, which makes ``answer`` from ``sent``, elsewhere.

    Both are bytes.
    """

    def run(sent, body="answer = dumps_result(loads(sent)())"):
        (tmp_path / "sent").write_bytes(sent)
        program = PROGRAM.format(body=textwrap.dedent(body))
        run_python("-c", program, tmp_path, *sys.path)
        return (tmp_path / "answer").read_bytes()

    return run


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    """Return a function that writes a module to a folder on sys.path and imports it."""
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    names = []

    def write(name, text, imported=True):
        (folder / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
        names.append(name)
        return __import__(name) if imported else None

    yield write
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def table():
    return FunctionTable()


@pytest.fixture
def main_function():
    """Return a function: make ``f`` as a script would; return it and its globals."""

    def make(text, **values):
        namespace = {"__name__": "__main__", **values}
        exec(text, namespace)
        return namespace["f"], namespace

    return make


# ---- channels --------------------------------------------------------------------


@pytest.fixture(scope="session")
def make_pair():
    """Return a function that makes the parent's and the worker's channel."""

    def make():
        fds = socketpair()
        return Channel(fds[0], False), Channel(fds[1], True)

    return make


@pytest.fixture
def pair(make_pair):
    """The parent's and the worker's channel, closed after the test."""
    channels = make_pair()
    yield channels
    for channel in channels:
        channel.close()


@pytest.fixture(scope="session")
def receive():
    """Return a function that waits for a frame, on either side."""

    def wait(channel):
        poll = select.poll()
        poll.register(channel.fd, select.POLLIN)
        while (frame := channel.receive()) is None:
            poll.poll()
        return frame

    return wait


@pytest.fixture(scope="session")
def flush():
    """Return a function that sends all that is queued, as the parent's loop does."""

    def send_all(channel):
        poll = select.poll()
        poll.register(channel.fd, select.POLLOUT)
        while not channel.send_queued():
            poll.poll()

    return send_all


class Thread(threading.Thread):
    """A thread that keeps what its function returned or raised."""

    def __init__(self, function, *args):
        super().__init__()
        self.function, self.args = function, args
        self.result = None
        self.start()

    def run(self):
        try:
            self.result = self.function(*self.args)
        except BaseException as exc:
            self.result = exc

    def wait(self):
        self.join()
        return self.result


@pytest.fixture(scope="session")
def thread():
    """Return a class: start ``thread(function, *args)``, then ``wait()`` its result."""
    return Thread
