"""Fixtures for all tests: a leak check after each one, and fresh interpreters.

The leak check fails a test that leaves behind a thread, a child process, an open
descriptor or a temporary file. Two things may outlive a call by design: parked
helper threads (`cypar-worker-*`) and the idle workers of the warm pool.
"""

import gc
import os
import platform
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import hypothesis
import pytest

import cypar

ROOT = Path(__file__).parents[1]

# What ends by itself (a thread that is about to park, a killed process) may take
# this long, on a busy machine.
SETTLE_S = 3.0

TEMP_PREFIXES = ("cypar", "joblib", "loky")

# The same examples in every run, however slow the machine is.
hypothesis.settings.register_profile(
    "cypar",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("cypar")


def pytest_configure(config):
    if os.environ.get("CYPAR_TEST_INSTALLED") == "1" and ROOT / "cypar" in (
        Path(cypar.__file__).parents
    ):
        raise pytest.UsageError(
            f"{cypar.__file__} would be tested, not the installed package: "
            "run the `pytest` script, not `python -m pytest`"
        )


def pytest_report_header(config):
    return f"cypar: {Path(cypar.__file__).parent}"


# ---- fresh interpreters -------------------------------------------------------


@pytest.fixture
def run_python(tmp_path):
    """Return a function that runs Python with the given arguments in a new process.

    ``run_python(*args, env={}, timeout_s=30, returncode=0, input=None)`` returns a
    CompletedProcess with text output. A None in `env` unsets a variable. Another exit
    status than `returncode` fails the test; None accepts any.
    """

    def run(*args, env=None, timeout_s=30, returncode=0, input=None):
        process = subprocess.Popen(
            [sys.executable, *map(str, args)],
            cwd=tmp_path,
            env=script_environment(env or {}),
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                out, err = process.communicate(input, timeout=timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                out, err = process.communicate()
                pytest.fail(f"not finished after {timeout_s} s\n{out}\n{err}")
        if returncode is not None and process.returncode != returncode:
            pytest.fail(f"exit status {process.returncode}\n{out}\n{err}")
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    return run


@pytest.fixture
def run_script(run_python, tmp_path):
    """Return a function that runs a program text in a fresh interpreter.

    ``run_script(text, *args, python_args=(), **options)`` dedents `text`, writes it to
    script.py in a folder of its own and runs it there; options as in `run_python`.
    """

    def run(text, *args, python_args=(), **options):
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(text), encoding="utf-8")
        return run_python(*python_args, script, *args, **options)

    return run


def script_environment(changes):
    """Return os.environ with `changes`, in which the cypar under test is importable."""
    env = {**os.environ, **changes}
    # An installed package is found anyway; one built in place only from its folder.
    if ROOT / "cypar" in Path(cypar.__file__).parents:
        env["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(ROOT), env.get("PYTHONPATH")])
        )
    return {name: value for name, value in env.items() if value is not None}


# ---- kernels that lack something ------------------------------------------------

# machine -> numbers of prctl and userfaultfd; others are the same everywhere
NUMBERS = {"x86_64": (157, 323), "aarch64": (167, 282)}

# Lets a script make one system call fail in its process and in all its children.
SYSTEM_CALL_FILTER = f"""
import ctypes, struct
PRCTL, USERFAULTFD = {NUMBERS.get(platform.machine())}
PIDFD_OPEN = 434
PR_SET_PDEATHSIG, ENOSYS, EPERM = 1, 38, 1
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # a 32-bit word of the call; compare; result

def refuse(number, error, first_argument=None):
    steps = [(LOAD, 0, 0, 0)]
    if first_argument is None:
        steps += [(EQUAL, 0, 1, number)]
    else:
        steps += [(EQUAL, 0, 3, number), (LOAD, 0, 0, 16)]
        steps += [(EQUAL, 0, 1, first_argument)]
    steps += [(RETURN, 0, 0, 0x00050000 | error), (RETURN, 0, 0, 0x7FFF0000)]
    code = b"".join(struct.pack("HBBI", op, yes, no, k) for op, yes, no, k in steps)
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(keep(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, keep(program), 0, 0) == 0  # PR_SET_SECCOMP

kept = []

def keep(data):
    kept.append(ctypes.create_string_buffer(data, len(data)))
    return kept[-1]
"""


@pytest.fixture
def system_call_filter():
    """Text that defines ``refuse(number, error, first_argument=None)`` (seccomp)."""
    if sys.platform != "linux" or platform.machine() not in NUMBERS:
        pytest.skip("the filter is written for Linux on some machines")
    return SYSTEM_CALL_FILTER


# ---- several threads ----------------------------------------------------------


@pytest.fixture
def in_threads():
    """Return a function that runs functions side by side.

    ``in_threads(*functions, deadline_s=40)`` returns their results in order, and
    raises the first error of one of them.
    """

    def run_all(*functions, deadline_s=40):
        results, errors = [None] * len(functions), []

        def run(k, function):
            try:
                results[k] = function()
            except BaseException as error:
                errors.append(error)

        threads = [
            threading.Thread(target=run, args=item) for item in enumerate(functions)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(deadline_s)
            assert not thread.is_alive(), "a call hangs"
        if errors:
            raise errors[0]
        return results

    return run_all


@pytest.fixture(scope="session")
def until():
    """Return a function that waits for a condition that others bring about.

    Only for what no event can tell: that a thread has parked, or a process ended.
    """

    def wait(condition, deadline_s=10.0):
        deadline = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < deadline, "the condition never came true"
            time.sleep(0.001)

    return wait


class Moment:
    """Calls something before the k-th line of some functions, once.

    Parameters
    ----------
    k : int
    action : callable
    watches : callable
        Of a frame: whether the lines of this function count.
    counts : callable
        Whether the line counts that is about to run.
    """

    def __init__(self, k, action, watches, counts=lambda: True):
        self.left = k
        self.action = action
        self.watches = watches
        self.counts = counts

    def __enter__(self):
        sys.settrace(self.trace)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    @property
    def came(self):
        return self.left < 0

    def trace(self, frame, event, argument):
        return self.trace_lines if self.watches(frame) else None

    def trace_lines(self, frame, event, argument):
        if event == "line" and self.counts():
            self.left -= 1
            if self.left == -1:
                sys.settrace(None)
                self.action()
        return self.trace_lines


@pytest.fixture(scope="session")
def moment_at():
    """The class `Moment`, for what is to happen between any two lines."""
    return Moment


@pytest.fixture
def frequent_switches():
    """Let threads take turns as often as Python can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# ---- the leak check -----------------------------------------------------------

failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        item.stash[failed] = True
    return report


@pytest.fixture(autouse=True)
def no_leaks(request):
    """Fail a passed test that leaves something behind; see the top of this file."""
    before = Resources()
    yield
    if request.node.stash.get(failed, False):
        return  # its traceback keeps objects alive
    deadline = time.monotonic() + SETTLE_S
    while leaks := Resources().beyond(before):
        if time.monotonic() > deadline:
            pytest.fail("the test leaves behind: " + "; ".join(leaks), pytrace=False)
        gc.collect()
        time.sleep(0.01)


class Resources:
    """What this process holds at one moment."""

    def __init__(self):
        self.threads = set(threading.enumerate())
        self.children = child_pids()
        self.descriptors = open_descriptors()
        self.files = temporary_files()
        self.pool = Pool()
        self.leased = self.pool.leased & self.children
        self.busy = busy_helper_threads()

    def beyond(self, before):
        """Return a description of each thing that was not there before."""
        pool = self.pool
        threads = {
            thread.name
            for thread in self.threads - before.threads
            if not thread.name.startswith("cypar-worker-") and thread.is_alive()
        }
        children = self.children - before.children - pool.idle - helper_processes()
        children.discard(pool.server)
        descriptors = {
            f"{fd} -> {target}"
            for fd, target in (self.descriptors - before.descriptors)
            if fd not in pool.descriptors and not pool.descriptors_unknown
        }
        return [
            *(f"thread {name}" for name in sorted(threads)),
            *([f"{self.busy} busy helper threads"] if self.busy > before.busy else []),
            *(f"leased worker process {pid}" for pid in self.leased - before.leased),
            *(f"child process {pid}" for pid in sorted(children - pool.leased)),
            *(f"descriptor {text}" for text in sorted(descriptors)),
            *(f"file {path}" for path in sorted(self.files - before.files)),
        ]


class Pool:
    """What the warm pool holds: the one door from the tests into its state.

    Needs from cypar.backends.pool.supervisor: ``pool.pids()`` -> (idle, leased),
    ``pool.descriptors()`` -> all descriptors that belong to the pool, and
    ``pool.server.pid``, the fork server.
    """

    def __init__(self):
        supervisor = sys.modules.get("cypar.backends.pool.supervisor")
        pool = getattr(supervisor, "pool", None)
        idle, leased = pool.pids() if pool is not None else ((), ())
        self.idle = set(idle)
        self.leased = set(leased)
        self.server = pool.server.pid if pool is not None else None
        list_descriptors = getattr(pool, "descriptors", None)
        self.descriptors = set(list_descriptors()) if list_descriptors else set()
        # Until the pool can tell, descriptors are checked only while it has no worker.
        self.descriptors_unknown = pool is not None and list_descriptors is None


def busy_helper_threads():
    """Return how many helper threads of the thread backend are not parked."""
    helpers = sys.modules.get("cypar.core._helper_threads")
    if helpers is None:
        return 0
    return max(0, helpers.live_count() - helpers.parked_count())


def child_pids():
    """Return the process ids of all children, zombies included (Linux only).

    Workers are children of the fork server, or our own.
    """
    return children_of("self") | children_of(Pool().server)


def children_of(pid):
    pids = set()
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids.update(map(int, file.read_text().split()))
        except OSError:
            continue  # that thread has just ended
    return pids


def helper_processes():
    """Return the processes that multiprocessing and loky start once and keep."""
    pids = set()
    for name, variable, attribute in (
        ("multiprocessing.resource_tracker", "_resource_tracker", "_pid"),
        ("multiprocessing.forkserver", "_forkserver", "_forkserver_pid"),
        ("loky.backend.resource_tracker", "_resource_tracker", "_pid"),
        ("joblib.externals.loky.backend.resource_tracker", "_resource_tracker", "_pid"),
    ):
        owner = getattr(sys.modules.get(name), variable, None)
        pids.add(getattr(owner, attribute, None))
    return pids


def open_descriptors():
    """Return {(descriptor, what it is open on)} (Linux only)."""
    found = set()
    for entry in Path("/proc/self/fd").glob("*"):
        try:
            target = os.readlink(entry)
        except OSError:
            continue  # the one that listed the folder
        if int(entry.name) not in helper_descriptors():
            found.add((int(entry.name), target))
    return found


def helper_descriptors():
    """Return the descriptors that lead to `helper_processes`."""
    fds = set()
    for name, variable in (
        ("multiprocessing.resource_tracker", "_resource_tracker"),
        ("multiprocessing.forkserver", "_forkserver"),
        ("loky.backend.resource_tracker", "_resource_tracker"),
        ("joblib.externals.loky.backend.resource_tracker", "_resource_tracker"),
    ):
        owner = getattr(sys.modules.get(name), variable, None)
        fds.add(getattr(owner, "_fd", None))
        fds.add(getattr(owner, "_forkserver_alive_fd", None))
    return fds


def temporary_files():
    """Return the files that cypar or joblib may have put into temporary folders.

    joblib's names hold the process id: those of other processes are not ours.
    """
    joblib_folder = "joblib_memmapping_folder_"
    ours = f"{joblib_folder}{os.getpid()}_"
    return {
        entry.path
        for folder in {"/dev/shm", tempfile.gettempdir()}
        if os.path.isdir(folder)
        for entry in os.scandir(folder)
        if entry.name.startswith(TEMP_PREFIXES)
        and (entry.name.startswith(ours) or not entry.name.startswith(joblib_folder))
    }
