"""A stand-in for a worker: a fresh Python with this process's sys.path."""

import sys
import textwrap

import pytest

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
