"""The process that workers are forked from: what they inherit, and when it fails."""

import os
import random
import signal
import sys
import threading
from pathlib import Path

import pytest

import cypar
from cypar import Parallel, WorkerCrash, delayed

LINUX = sys.platform.startswith("linux")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LINUX, reason="the fork server is for Linux"),
]


@pytest.fixture
def forked(fresh_pool, monkeypatch):
    """The pool, with a server that starts when it is needed."""
    monkeypatch.delenv("CYPAR_START_METHOD", raising=False)
    yield fresh_pool
    fresh_pool.shutdown()
    cypar.set_preload([])


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Return a function that writes a module, importable here and in workers."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)

    return write


def run(function, *args, n=2):
    return Parallel(n_jobs=2, batch_size=1)(delayed(function)(*args) for _ in range(n))


def parent_of():
    return os.getppid()


def test_workers_are_children_of_the_server(forked):
    assert set(run(parent_of)) == {forked.server.pid}
    assert forked.server.pid != os.getpid()


def test_exec_start_can_be_asked_for(forked, monkeypatch):
    monkeypatch.setenv("CYPAR_START_METHOD", "exec")
    assert set(run(parent_of)) == {os.getpid()}
    assert forked.server.pid is None


def test_no_server_before_it_is_needed_and_none_after_shutdown(forked):
    assert forked.server.pid is None
    Parallel(n_jobs=2, backend="threading")(delayed(abs)(i) for i in range(3))
    assert forked.server.pid is None
    run(abs, 1)
    pid = forked.server.pid
    assert Path(f"/proc/{pid}").exists()
    forked.shutdown()
    assert forked.server.pid is None
    assert not Path(f"/proc/{pid}").exists()


def state():
    return {
        "stdin": os.readlink("/proc/self/fd/0"),
        "group": os.getpgid(0) == os.getpid(),
        "cwd": os.getcwd(),
        "first": sys.path[0],
        "variable": os.environ.get("CYPAR_TEST_VARIABLE"),
        "omp": os.environ.get("OMP_NUM_THREADS"),
        "umask": os.umask(0o22),
    }


def test_what_changed_since_the_servers_start_holds(
    forked, signals, monkeypatch, tmp_path
):
    """A worker that is forked late follows the parent as it is then."""
    run(abs, 1, n=1)
    forked.discard([*forked._idle])
    monkeypatch.setenv("CYPAR_TEST_VARIABLE", "late")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("/somewhere/else")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with cypar.parallel_config(inner_max_num_threads=3, backend="processes"):
        [found] = Parallel(n_jobs=2)([delayed(state)()])
    assert found == {
        "stdin": "/dev/null",
        "group": True,
        "cwd": str(tmp_path),
        "first": "/somewhere/else",
        "variable": "late",
        "omp": "3",
        "umask": found["umask"],
    }


def test_a_worker_has_nothing_of_the_servers(forked, two_workers):
    """It holds its own channel, not the server's socket or another worker's."""
    for pid in two_workers:
        targets = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
        assert sum(target.startswith("socket:") for target in targets) == 1, targets
        assert "anon_inode:[pidfd]" not in targets


def draw(meet):
    import numpy as np

    pid = meet("drawn", 2)
    return pid, random.random(), float(np.random.random())


def test_random_numbers_differ_between_workers(forked, signals):
    pytest.importorskip("numpy")
    (a, x, p), (b, y, q) = run(draw, signals.meet)
    assert a != b
    assert x != y
    assert p != q


# ---- preloading ----------------------------------------------------------------------


def loaded(names):
    return [name in sys.modules for name in names]


def test_numpy_is_preloaded_with_one_thread_and_limits_hold(forked):
    np = pytest.importorskip("numpy")
    pytest.importorskip("threadpoolctl")

    def threads():
        import threadpoolctl

        np.ones((200, 200)) @ np.ones((200, 200))
        return [lib["num_threads"] for lib in threadpoolctl.threadpool_info()]

    for wanted in (1, 3):
        with cypar.parallel_config(inner_max_num_threads=wanted, backend="processes"):
            for found in Parallel(n_jobs=2)(delayed(threads)() for _ in range(4)):
                assert set(found) <= {wanted}
    assert set(run(parent_of)) == {forked.server.pid}


@pytest.mark.parametrize("wanted", ["1", "3"])
def test_threads_that_the_user_set_himself(run_script, wanted):
    pytest.importorskip("numpy")
    done = run_script(
        """
        import numpy as np
        from cypar import Parallel, delayed

        def threads():
            import threadpoolctl
            return {lib["num_threads"] for lib in threadpoolctl.threadpool_info()}

        print(set().union(*Parallel(n_jobs=2)(delayed(threads)() for _ in range(2))))
        """,
        env={"OPENBLAS_NUM_THREADS": wanted, "OMP_NUM_THREADS": wanted},
    )
    assert done.stdout == f"{{{wanted}}}\n"


def test_chosen_modules_are_preloaded_and_their_hook_runs(forked, modules):
    modules(
        "preloaded_here",
        "import os\n"
        "imported_in = os.getpid()\n"
        "hook_in = None\n"
        "def hook():\n"
        "    global hook_in\n"
        "    hook_in = os.getpid()\n"
        "os.register_at_fork(after_in_child=hook)\n",
    )

    def look():
        import preloaded_here as module

        return module.imported_in, module.hook_in == os.getpid()

    cypar.set_preload(["preloaded_here"])
    assert set(run(look)) == {(forked.server.pid, True)}


def test_modules_chosen_later_are_in_new_workers(forked, modules):
    modules("chosen_later", "")
    assert run(loaded, ["chosen_later"], n=1) == [[False]]
    cypar.set_preload(["chosen_later"])
    forked.discard([*forked._idle])
    assert run(loaded, ["chosen_later"], n=1) == [[True]]


def test_server_with_a_thread_does_not_fork(forked, modules):
    """The guard: workers are then started by exec, silently."""
    modules(
        "starts_a_thread",
        "import threading\n"
        "event = threading.Event()\n"
        "threading.Thread(target=event.wait, daemon=True).start()\n",
    )
    cypar.set_preload(["starts_a_thread"])
    assert set(run(parent_of)) == {os.getpid()}
    assert run(abs, -1) == [1, 1]


def test_module_that_cannot_be_imported_is_named(run_script):
    done = run_script(
        """
        import cypar
        cypar.set_preload(["no_such_module"])
        print(cypar.Parallel(n_jobs=2)([cypar.delayed(abs)(-1)] * 2))
        """
    )
    assert done.stdout == "[1, 1]\n"
    assert done.stderr.count("set_preload cannot import 'no_such_module'") == 1


def test_module_that_ends_the_server(forked, modules):
    modules("ends_it", "import os\nif os.getppid() != 1: os._exit(3)\n")
    cypar.set_preload(["ends_it"])
    assert set(run(parent_of)) == {os.getpid()}


@pytest.mark.parametrize("wrong", ["numpy", [1], [None]])
def test_set_preload_refuses_what_is_no_list_of_names(wrong):
    with pytest.raises(TypeError, match="modules must be"):
        cypar.set_preload(wrong)


# ---- ends ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "exitcode"),
    [
        (lambda: os._exit(7), 7),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), -signal.SIGKILL),
        (os.abort, -signal.SIGABRT),
    ],
)
def test_how_a_worker_ended_is_known(forked, end, exitcode):
    with pytest.raises(WorkerCrash) as caught:
        run(end, n=1)
    assert caught.value.exitcode == exitcode
    assert run(abs, -1) == [1, 1]


def test_ended_workers_are_no_zombies(forked):
    run(abs, -1)
    for _ in range(3):
        with pytest.raises(WorkerCrash):
            run(os._exit, 1, n=1)
    path = Path(f"/proc/{forked.server.pid}/task/{forked.server.pid}/children")
    alive = {int(pid) for pid in path.read_text().split()}
    assert alive == set(forked.pids()[0])


def test_killed_server_before_a_call(forked, signals, ended):
    run(abs, -1)
    os.kill(forked.server.pid, signal.SIGKILL)
    for pid in forked.pids()[0]:  # they die with it, one moment later
        signals.until(lambda pid=pid: ended(pid), f"the end of {pid}")
    assert run(abs, -1, n=20) == [1] * 20
    assert forked.server.pid is None  # exec start did it
    forked.discard([*forked._idle])
    assert set(run(parent_of)) == {forked.server.pid}


def kill_server(signals, server_pid, i):
    signals.note("runs", i)
    if i == 5:
        os.kill(server_pid, signal.SIGKILL)
        signals.wait("never", 30)
    return i


def test_killed_server_in_a_call_costs_the_running_tasks_only(forked, signals):
    """Its workers die with it; their started tasks are named, the others run."""
    run(abs, -1)
    pid = forked.server.pid
    with pytest.raises(WorkerCrash):
        Parallel(n_jobs=2)(delayed(kill_server)(signals, pid, i) for i in range(12))
    runs = signals.notes("runs")
    assert len(runs) == len(set(runs))  # none twice
    assert Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(9)) == [*range(9)]


def test_killed_server_while_workers_start(forked, modules, signals):
    """Nothing has run yet, so nothing is lost: exec start does it."""
    modules(
        "slow_to_import",
        f"from pathlib import Path\nimport time\n"
        f"Path({signals.path('importing')!r}).touch()\n"
        "time.sleep(30)\n",
    )
    cypar.set_preload(["slow_to_import"])

    def kill():
        signals.wait("importing")
        os.kill(forked.server.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        assert run(abs, -1, n=10) == [1] * 10
    finally:
        killer.join()
    assert set(run(parent_of)) == {os.getpid()}


def test_after_two_losses_workers_are_started_by_exec(forked):
    for _ in range(2):
        assert set(run(parent_of)) == {forked.server.pid}
        os.kill(forked.server.pid, signal.SIGKILL)
        run(abs, -1)  # notices
        forked.discard([*forked._idle])
    assert set(run(parent_of)) == {os.getpid()}
    assert forked.server.pid is None


def test_server_that_has_left_by_itself_is_no_loss(forked, signals, ended):
    for _ in range(3):
        run(abs, -1)
        forked.discard([*forked._idle])
        pid = forked.server.pid
        forked.server._control.shutdown(1)  # no more requests: it leaves
        signals.until(lambda pid=pid: ended(pid), "its end")
    assert set(run(parent_of)) == {forked.server.pid}


def test_the_server_leaves_with_its_parent(run_python, ended, tmp_path, signals):
    script = tmp_path / "program.py"
    script.write_text(
        "import os, signal\n"
        "from cypar import Parallel, delayed\n"
        "print(*Parallel(n_jobs=2)(delayed(os.getppid)() for _ in range(2)),"
        " flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = run_python(script, returncode=-signal.SIGKILL)
    [server] = set(map(int, done.stdout.split()))
    signals.until(lambda: ended(server), "the server's end", 1.0)


def test_impatient_reap_leaves_the_server_to_workers_that_start(forked, monkeypatch):
    """After Ctrl-C at start-up; the workers that start may be another call's."""
    run(abs, 1, n=1)
    server = forked.server
    pid = server.pid
    server.working.clear()
    server.starting.add(10**6)

    def ask(*args):
        raise TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr(server, "_ask", ask)
        assert server.reap(10**6 + 1) is None
        assert server.pid == pid
        assert server.reap(10**6) is None
        assert server.pid is None
