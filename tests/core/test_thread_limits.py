"""What BLAS and OpenMP may use inside tasks on threads.

Each test is a program of its own: the numbers belong to the process. It is told that
it has eight processors, of which the libraries know nothing.
"""

import ctypes

import pytest

SETUP = """
import os, sys, threading
import numpy
import threadpoolctl
from cypar import Parallel, delayed, parallel_config
from cypar.core._thread_limits import Limits, limits_for

blas = threadpoolctl.ThreadpoolController().select(user_api="blas")

def n_blas(*args):
    return {c.get_num_threads() for c in blas.lib_controllers}

for controller in blas.lib_controllers:
    controller.set_num_threads(6)
if n_blas() != {6}:
    print("no BLAS to test with")
    sys.exit()

def in_tasks(n_tasks, n_jobs=2):
    meeting = threading.Barrier(min(n_tasks, n_jobs))
    def task():
        meeting.wait()
        return n_blas()
    return Parallel(n_jobs, prefer="threads")(delayed(task)() for _ in range(n_tasks))
"""


@pytest.fixture
def run(run_script):
    """Return a function that runs a program on eight processors."""

    def run_program(text):
        script = "import cypar.core.cpu as cpu\ncpu.cpu_count = lambda: 8\n"
        done = run_script(script + SETUP + text)
        if done.stdout.startswith("no BLAS"):
            pytest.skip("NumPy's BLAS has no number of threads to set")

    return run_program


def test_each_worker_gets_its_share(run):
    run("""
assert in_tasks(8, n_jobs=2) == [{4}] * 8
assert n_blas() == {6}
assert in_tasks(16, n_jobs=4) == [{2}] * 16
assert in_tasks(36, n_jobs=12) == [{1}] * 36
assert n_blas() == {6}
""")


def test_a_smaller_number_of_the_user_stays(run):
    run("""
with threadpoolctl.threadpool_limits(2):
    assert in_tasks(4) == [{2}] * 4
    assert n_blas() == {2}
assert n_blas() == {6}
""")


def test_few_tasks_leave_more_to_each(run):
    run("""
assert in_tasks(2, n_jobs=8) == [{4}] * 2
assert in_tasks(1, n_jobs=8) == [{6}]
""")


def test_the_users_number_counts(run):
    run("""
with parallel_config("threading", n_jobs=2, inner_max_num_threads=7):
    assert Parallel()(delayed(n_blas)(i) for i in range(4)) == [{7}] * 4
assert n_blas() == {6}
""")


def test_numbers_come_back_after_a_failure(run):
    run("""
def fail():
    assert n_blas() == {4}
    raise KeyError
try:
    Parallel(2, prefer="threads")(delayed(fail)() for i in range(4))
except KeyError:
    pass
assert n_blas() == {6}
""")


def test_numbers_come_back_if_a_task_has_changed_them(run):
    run("""
def change():
    blas.lib_controllers[0].set_num_threads(3)
Parallel(2, prefer="threads")(delayed(change)() for i in range(4))
assert n_blas() == {6}
""")


def test_of_calls_at_once_the_least_counts(run):
    run("""
first, second = Limits(3), Limits(2)
first.begin(); assert n_blas() == {3}
second.begin(); assert n_blas() == {2}
second.end(); assert n_blas() == {3}
second.begin(); assert n_blas() == {2}
first.end(); assert n_blas() == {2}
second.end(); assert n_blas() == {6}
""")


def test_calls_inside_tasks_divide_the_share_of_the_task(run):
    run("""
assert Parallel(2, prefer="threads")(
    delayed(in_tasks)(4, 2) for _ in range(2)
) == [[{2}] * 4] * 2
assert n_blas() == {6}
""")


def test_a_child_that_a_task_forks_has_its_own_numbers(run):
    run("""
import warnings
warnings.simplefilter("ignore")  # the parent has threads: that is the point
def task():
    pid = os.fork()
    if pid == 0:
        os._exit(0 if n_blas() == {6} else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert Parallel(2, prefer="threads")(delayed(task)() for _ in range(2)) == [0, 0]
assert n_blas() == {6}
""")


def test_one_worker_is_not_limited(run):
    run("""
assert limits_for(1) is None
assert in_tasks(4, n_jobs=1) == [{6}] * 4
""")


def test_kernels_that_are_mapped_are_limited_too(run):
    run("""
import ctypes
from cypar import Kernel
seen = []

@ctypes.CFUNCTYPE(None, ctypes.c_double)
def look(x):
    seen.append(n_blas())

Kernel(look).map(numpy.ones(10), n_jobs=4)
assert seen == [{2}] * 10
assert n_blas() == {6}
""")


def test_openmp_is_set_in_each_worker_and_nowhere_else(run):
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        pytest.skip("needs OpenMP")
    run("""
import ctypes
gomp = ctypes.CDLL("libgomp.so.1")
gomp.omp_set_num_threads(5)
meeting = threading.Barrier(2)
def n_openmp():
    meeting.wait()
    return gomp.omp_get_max_threads()
with parallel_config("threading", n_jobs=2, inner_max_num_threads=3):
    assert Parallel()(delayed(n_openmp)() for _ in range(4)) == [3] * 4
assert gomp.omp_get_max_threads() == 5
""")


def test_nothing_is_loaded_without_numpy(run_script):
    run_script("""
import sys
from cypar import Parallel, delayed
assert Parallel(2, prefer="threads")(delayed(abs)(-i) for i in range(9))
assert not {"numpy", "ctypes", "threadpoolctl"} & set(sys.modules)
""")
