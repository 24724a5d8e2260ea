"""Workers follow their parent: directory, path, environment, umask, modules."""

import os
import sys

import pytest

from cypar import Parallel, delayed


def everywhere(function, *args):
    """Run a task on two workers; returns the one answer that both give."""
    parallel = Parallel(n_jobs=2, batch_size=1)
    answers = parallel(delayed(function)(*args) for _ in range(6))
    assert all(answer == answers[0] for answer in answers)
    return answers[0]


def get_umask():
    old = os.umask(0)
    os.umask(old)
    return old


def test_directory(two_workers, tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert everywhere(os.getcwd) == str(tmp_path / name)


def test_directory_that_a_task_left(two_workers):
    """A task that changes its directory changes it for itself, at worst."""
    here = os.getcwd()
    Parallel(n_jobs=2)(delayed(os.chdir)("/") for _ in range(2))
    assert os.getcwd() == here


def test_environment(two_workers, monkeypatch):
    monkeypatch.setenv("CYPAR_TEST_VARIABLE", "first")
    assert everywhere(os.getenv, "CYPAR_TEST_VARIABLE") == "first"
    monkeypatch.setenv("CYPAR_TEST_VARIABLE", "second \udcff")
    assert everywhere(os.getenv, "CYPAR_TEST_VARIABLE") == "second \udcff"
    monkeypatch.delenv("CYPAR_TEST_VARIABLE")
    assert everywhere(os.getenv, "CYPAR_TEST_VARIABLE") is None


def test_environment_between_two_draws(two_workers, monkeypatch):
    def tasks():
        for i in range(30):
            monkeypatch.setenv("CYPAR_TEST_VARIABLE", str(i))
            yield delayed(os.getenv)("CYPAR_TEST_VARIABLE")

    seen = list(map(int, Parallel(n_jobs=2, batch_size=1, pre_dispatch=2)(tasks())))
    assert all(i <= value for i, value in enumerate(seen))


def test_umask(two_workers):
    before = get_umask()
    try:
        for value in (0o077, 0o027):
            os.umask(value)
            assert everywhere(get_umask) == value
    finally:
        os.umask(before)


def test_arguments_of_the_program(two_workers, monkeypatch):
    for argv in (["program", "-x"], ["program"], []):
        monkeypatch.setattr(sys, "argv", argv)
        assert everywhere(_argv) == argv


def _argv():
    return sys.argv


def test_path_and_new_module(two_workers, tmp_path, monkeypatch):
    (tmp_path / "brand_new_module.py").write_text("def value():\n    return 42\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import brand_new_module

    try:
        assert everywhere(brand_new_module.value) == 42
        assert str(tmp_path) in everywhere(_path)
    finally:
        del sys.modules["brand_new_module"]


def _path():
    return sys.path


def test_edited_and_reloaded_module(two_workers, tmp_path, monkeypatch):
    file = tmp_path / "edited_module.py"
    file.write_text("def value():\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    import importlib

    import edited_module

    try:
        assert everywhere(edited_module.value) == 1
        file.write_text("def value():\n    return 'two'\n")
        importlib.reload(edited_module)
        assert everywhere(edited_module.value) == "two"
    finally:
        del sys.modules["edited_module"]


def test_stdin_is_empty(two_workers):
    assert everywhere(_read_stdin) == ("", "/dev/null")


def _read_stdin():
    return sys.stdin.read(), os.readlink("/proc/self/fd/0")


def test_manager_queue_as_argument(two_workers):
    import multiprocessing

    def task(queue, i):
        queue.put(i)
        return os.getpid()

    with multiprocessing.Manager() as manager:
        queue = manager.Queue()
        pids = Parallel(n_jobs=2, batch_size=1)(
            delayed(task)(queue, i) for i in range(6)
        )
        assert sorted(queue.get() for _ in range(6)) == list(range(6))
    assert os.getpid() not in pids


@pytest.mark.slow
def test_shared_memory_by_name(run_script):
    """Neither the parent nor the workers complain about it at their end."""
    done = run_script(
        """
        from multiprocessing.shared_memory import SharedMemory
        from cypar import Parallel, delayed

        def task(name, i):
            memory = SharedMemory(name=name)
            memory.buf[i] = i + 1
            memory.close()

        def share(memory, i):
            memory.buf[i] += 1
            memory.close()

        memory = SharedMemory(create=True, size=8)
        Parallel(n_jobs=2)(delayed(task)(memory.name, i) for i in range(8))
        assert bytes(memory.buf[:8]) == bytes(range(1, 9)), bytes(memory.buf)
        Parallel(n_jobs=2)(delayed(share)(memory, i) for i in range(8))
        assert bytes(memory.buf[:8]) == bytes(range(2, 10)), bytes(memory.buf)
        memory.close()
        memory.unlink()
        """
    )
    assert done.stderr == ""


def test_random_state_differs_between_workers(two_workers, signals):
    def draw():
        import random

        signals.meet("met", 2)
        return random.random()

    assert len(set(Parallel(n_jobs=2)(delayed(draw)() for _ in range(2)))) == 2
