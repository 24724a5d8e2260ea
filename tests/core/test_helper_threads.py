"""core/_helper_threads: parked threads that run jobs for every call."""

import gc
import os
import sys
import threading
import time
import weakref

import pytest

from cypar.core import _helper_threads as helpers


@pytest.fixture(autouse=True)
def _no_helpers(until):
    """Begin and end without a helper thread."""
    retire_all(until)
    yield
    retire_all(until)


def retire_all(until):
    until(lambda: helpers.parked_count() == helpers.live_count())
    helpers.retire()
    assert helpers.live_count() == 0


@pytest.fixture
def run(until):
    """Return a function that has a job run, and waits until its helper has parked."""

    def run_and_park(job):
        n_parked = max(1, helpers.parked_count())
        helpers.run(job)
        until(lambda: helpers.parked_count() == n_parked)

    return run_and_park


def collector():
    """A list, and a job that puts the thread it runs on into it."""
    threads = []
    return threads, lambda parker: threads.append(threading.current_thread())


# ---- jobs --------------------------------------------------------------------------


def test_a_job_runs_on_a_daemon_thread_with_a_name_of_ours(run):
    threads, job = collector()
    run(job)
    assert threads[0] is not threading.current_thread()
    assert threads[0].name.startswith("cypar-worker-")
    assert threads[0].daemon


def test_a_job_gets_the_parker_of_its_thread(run):
    parkers = []
    run(parkers.append)
    assert isinstance(parkers[0], helpers.Parker)


def test_a_parked_helper_takes_the_next_job(run):
    threads, job = collector()
    for _ in range(5):
        run(job)
    assert len(set(threads)) == 1
    assert (helpers.live_count(), helpers.parked_count()) == (1, 1)


def is_asleep(thread):
    with open(f"/proc/self/task/{thread.native_id}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processors of Linux")
def test_a_helper_that_sleeps_on_another_processor_comes_first(until):
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("there is one processor")
    processors = sorted(allowed)[:2]
    barrier = threading.Barrier(3)
    threads = {}

    def stay_on(processor):
        def job(parker):
            os.sched_setaffinity(0, {processor})
            threads[processor] = threading.current_thread()
            barrier.wait()

        return job

    for processor in processors:
        helpers.run(stay_on(processor))
    barrier.wait()
    try:
        for here, elsewhere in (processors, processors[::-1]) * 2:
            until(
                lambda: (
                    helpers.parked_count() == 2
                    and all(map(is_asleep, threads.values()))
                )
            )
            os.sched_setaffinity(0, {here})
            taken, job = collector()
            helpers.run(job)
            until(lambda taken=taken: taken)
            assert taken == [threads[elsewhere]]
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_busy_helper_takes_no_other_job(until):
    barrier = threading.Barrier(3)
    for _ in range(2):
        helpers.run(lambda parker: barrier.wait())
    assert helpers.live_count() == 2
    assert helpers.parked_count() == 0
    barrier.wait()
    until(lambda: helpers.parked_count() == 2)


def test_many_jobs_from_many_threads_all_run(until):
    n_threads, n_jobs = 4, 200
    ran = []

    def submit(base):
        for i in range(n_jobs):
            helpers.run(lambda parker, i=base + i: ran.append(i))

    threads = [
        threading.Thread(target=submit, args=(k * n_jobs,)) for k in range(n_threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(ran) == n_threads * n_jobs)
    assert sorted(ran) == [*range(n_threads * n_jobs)]


def test_a_job_is_let_go_before_its_helper_parks(run):
    class Job:
        def __call__(self, parker):
            pass

    job = Job()
    reference = weakref.ref(job)
    run(job)
    del job
    gc.collect()
    assert reference() is None


# ---- errors ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_an_error_of_a_job_reaches_the_excepthook(run, monkeypatch, kind):
    seen = []
    monkeypatch.setattr(sys, "excepthook", lambda *info: seen.append(info))

    def fail(parker):
        raise kind("of the job")

    run(fail)
    ((exc_type, exc, traceback),) = seen
    assert exc_type is kind
    assert exc.args == ("of the job",)
    assert traceback is not None


def test_a_helper_survives_an_error_of_its_job(run, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", lambda *info: None)
    threads, job = collector()

    def fail(parker):
        job(parker)
        raise ValueError

    run(fail)
    run(job)
    assert threads[0] is threads[1]


def test_a_thread_that_cannot_start_is_not_counted(monkeypatch):
    def cannot(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            helpers.run(lambda parker: None)
    assert helpers.live_count() == 0


# ---- the end of helpers --------------------------------------------------------------


def test_retire_ends_parked_helpers(until):
    barrier = threading.Barrier(3)
    threads = []

    def job(parker):
        threads.append(threading.current_thread())
        barrier.wait()

    for _ in range(3):
        helpers.run(job)
    until(lambda: helpers.parked_count() == 3)
    helpers.retire()
    assert not any(thread.is_alive() for thread in threads)
    assert (helpers.live_count(), helpers.parked_count()) == (0, 0)


def test_retire_leaves_a_busy_helper_alone(until):
    release = threading.Event()
    helpers.run(lambda parker: release.wait())
    helpers.retire()
    assert helpers.live_count() == 1
    release.set()
    until(lambda: helpers.parked_count() == 1)


def test_retire_without_helpers_does_nothing():
    helpers.retire()
    helpers.retire()


def test_a_new_helper_starts_after_all_were_retired(run):
    threads, job = collector()
    run(job)
    helpers.retire()
    run(job)
    assert threads[0] is not threads[1]


def test_parked_helpers_are_gone_before_a_fork(run_script):
    script = """
        import os, threading, warnings
        warnings.simplefilter("error")  # 3.12+ warns of threads at a fork
        from cypar import Parallel, delayed
        from cypar.core import _helper_threads as helpers

        def square_all():
            with_threads = Parallel(n_jobs=2, backend="threading")
            return with_threads(delayed(pow)(i, 2) for i in range(50))

        expected = [i ** 2 for i in range(50)]
        assert square_all() == expected
        while helpers.parked_count() < helpers.live_count():
            threading.Event().wait(0.001)
        assert helpers.live_count() > 0
        pid = os.fork()
        assert helpers.live_count() == 0, helpers.live_count()
        assert threading.active_count() == 1
        assert square_all() == expected
        if pid == 0:
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        print("both could go on")
    """
    assert run_script(script).stdout == "both could go on\n"


def test_a_forked_child_forgets_a_busy_helper(run_script):
    script = """
        import os, threading, warnings
        from cypar.core import _helper_threads as helpers

        entered, release, ran = (threading.Event() for _ in range(3))
        helpers.run(lambda parker: (entered.set(), release.wait()))
        entered.wait()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a thread runs is what is tested
            pid = os.fork()
        assert helpers.live_count() == (0 if pid == 0 else 1)
        helpers.run(lambda parker: ran.set())
        ran.wait()
        if pid == 0:
            os._exit(0)
        release.set()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        print("both could go on")
    """
    assert run_script(script).stdout == "both could go on\n"


def test_nothing_is_started_while_the_interpreter_shuts_down(run_script):
    script = """
        import atexit, threading

        def at_exit():  # runs after what cypar registers
            assert helpers.is_shutting_down()
            assert helpers.live_count() == 0
            try:
                helpers.run(print)
            except RuntimeError as error:
                print("RuntimeError:", error)
            tasks = (delayed(threading.get_ident)() for _ in range(3))
            threads = Parallel(n_jobs=2, backend="threading")(tasks)
            assert set(threads) == {threading.get_ident()}

        atexit.register(at_exit)
        from cypar import Parallel, delayed
        from cypar.core import _helper_threads as helpers
        assert not helpers.is_shutting_down()
        helpers.run(lambda parker: None)
    """
    assert run_script(script).stdout == (
        "RuntimeError: cannot start threads while the interpreter shuts down\n"
    )


def test_a_busy_helper_does_not_hold_up_the_exit(run_script):
    script = """
        import threading
        from cypar.core import _helper_threads as helpers

        entered = threading.Event()
        helpers.run(lambda parker: (entered.set(), threading.Event().wait()))
        entered.wait()
    """
    assert run_script(script, timeout_s=10).stderr == ""


@pytest.mark.slow
def test_parked_helpers_use_no_processor_time(until):
    n_helpers = 8
    barrier = threading.Barrier(n_helpers)
    for _ in range(n_helpers):
        helpers.run(lambda parker: barrier.wait())
    until(lambda: helpers.parked_count() == n_helpers)
    before = time.process_time()
    threading.Event().wait(1.0)
    used = time.process_time() - before
    assert used < 0.05, f"{used} s of one processor in one second"


@pytest.mark.slow
def test_idle_helpers_leave_after_five_seconds(run, until):
    threads, job = collector()
    run(job)
    before = time.monotonic()
    threads[0].join()
    assert 4.5 < time.monotonic() - before < 8.0
    assert (helpers.live_count(), helpers.parked_count()) == (0, 0)
