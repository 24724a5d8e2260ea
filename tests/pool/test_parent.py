"""When the parent dies, forks or is interrupted."""

import os
import signal
import time

import pytest

from cypar import Parallel, delayed

pytestmark = pytest.mark.slow

BUSY = """
    def task():
        import subprocess
        child = subprocess.Popen(["sleep", "60"])
        say(worker=os.getpid(), child=child.pid)
        {work}

    {call}
"""


@pytest.mark.parametrize(
    "work", ["time.sleep(60)", "[i for i in iter(int, 1)]", "sum(range(10**12))"]
)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_parent_is_killed(program, ended, signals, killed_later, work, how):
    """Workers and the subprocesses of their tasks are gone within a second."""
    call = "Parallel(n_jobs=2)(delayed(task)() for _ in range(2))"
    parent = program(BUSY.format(work=work, call=call))
    said = [parent.hear() for _ in range(2)]
    pids = [pid for one in said for pid in (one["worker"], one["child"])]
    killed_later.extend(pids)
    parent.process.send_signal(how)
    parent.process.wait()
    for pid in pids:
        signals.until(lambda pid=pid: ended(pid), f"the end of {pid}", 1.0)


def test_parent_with_an_idle_pool_is_killed(program, ended, signals, killed_later):
    parent = program(
        """
        def task():
            time.sleep(0.05)
            return os.getpid()

        say(pids=Parallel(n_jobs=2)(delayed(task)() for _ in range(4)))
        time.sleep(60)
        """
    )
    pids = set(parent.hear()["pids"])
    killed_later.extend(pids)
    parent.process.kill()
    parent.process.wait()
    for pid in pids:
        signals.until(lambda pid=pid: ended(pid), f"the end of {pid}", 1.0)


# ---- fork ----------------------------------------------------------------------------


def test_fork_with_a_live_pool(run_script):
    """Parent and child both work; the child's end does not disturb the parent."""
    done = run_script(
        """
        import os
        from cypar import Parallel, delayed

        def pids():
            return set(Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(50)))

        before = pids()
        child = os.fork()
        if child == 0:
            mine = pids()
            assert mine and not mine & before, (mine, before)
            threads = Parallel(n_jobs=2, prefer="threads")
            assert threads([delayed(abs)(-1)] * 9) == [1] * 9
            raise SystemExit(0)
        after = pids()
        assert after <= before | pids()
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        assert pids() & before
        print("done")
        """
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_fork_with_a_half_read_generator(run_script):
    done = run_script(
        """
        import os
        from cypar import Parallel, delayed

        for backend in ("processes", "threading"):
            generator = Parallel(n_jobs=2, backend=backend, return_as="generator")(
                delayed(abs)(-i) for i in range(3000)
            )
            assert next(generator) == 0
            child = os.fork()
            if child == 0:
                try:
                    next(generator)
                except RuntimeError:
                    os._exit(0)
                os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
            assert list(generator) == list(range(1, 3000))
        print("done")
        """
    )
    assert done.stdout == "done\n"


def test_multiprocessing_process_inside_and_outside(run_script):
    done = run_script(
        """
        import multiprocessing, os
        from cypar import Parallel, delayed

        def inner(queue):
            queue.put(Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(5)))

        assert Parallel(n_jobs=2)([delayed(abs)(-1)] * 3) == [1] * 3
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        process = context.Process(target=inner, args=(queue,))
        process.start()
        assert queue.get() == [0, 1, 2, 3, 4]
        process.join()
        assert process.exitcode == 0
        assert Parallel(n_jobs=2)([delayed(abs)(-1)] * 3) == [1] * 3
        print("done")
        """
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


# ---- Ctrl-C --------------------------------------------------------------------------


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
@pytest.mark.parametrize("backend", ["processes", "threading"])
def test_s68_interrupt(program, backend, return_as):
    """KeyboardInterrupt in the parent, soon; the next call works."""
    work = "time.sleep(60)" if backend == "processes" else "event.wait(60)"
    child = program(
        f"""
        import warnings
        event = threading.Event() if {backend!r} == "threading" else None
        # The signal may come between two reads: the generator is then just dropped.
        warnings.simplefilter("ignore")

        def task():
            say(started=os.getpid())
            {work}

        parallel = Parallel(n_jobs=2, backend={backend!r}, return_as={return_as!r})
        try:
            list(parallel(delayed(task)() for _ in range(4)))
        except KeyboardInterrupt:
            say(interrupted=time.time())
        if event is not None:
            event.set()
        say(next=sorted(parallel(delayed(abs)(-i) for i in range(5))))
        """
    )
    for _ in range(2):
        assert "started" in child.hear()
    start = time.time()
    child.interrupt()
    said = child.hear()
    assert "interrupted" in said, said
    assert said["interrupted"] - start < 2
    assert child.hear() == {"next": [0, 1, 2, 3, 4]}
    status, out, err = child.end()
    assert (status, out, err) == (0, "", "")


def test_s68_interrupt_in_a_serial_loop(program):
    child = program(
        """
        def task():
            say(started=True)
            time.sleep(60)

        try:
            Parallel(n_jobs=1)(delayed(task)() for _ in range(4))
        except KeyboardInterrupt:
            say(interrupted=True)
        """
    )
    child.hear()
    child.interrupt()
    assert child.hear() == {"interrupted": True}
    assert child.end() == (0, "", "")


def test_p55_interrupt_of_the_whole_group(program):
    """As a terminal does it: the workers get the signal too and do not mind."""
    child = program(
        """
        def task():
            say(started=os.getpid())
            time.sleep(60)

        try:
            Parallel(n_jobs=2)(delayed(task)() for _ in range(4))
        except KeyboardInterrupt:
            say(interrupted=True)
        say(next=Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(5)))
        """
    )
    workers = [child.hear()["started"] for _ in range(2)]
    for pid in workers:
        os.kill(pid, signal.SIGINT)
    os.killpg(child.process.pid, signal.SIGINT)
    assert child.hear() == {"interrupted": True}
    assert child.hear() == {"next": [0, 1, 2, 3, 4]}
    assert child.end() == (0, "", "")


def test_p55_interrupt_of_an_unguarded_program_is_silent_in_workers(program):
    """The only traceback is the parent's own."""
    child = program(
        """
        def task():
            say(started=os.getpid())
            time.sleep(60)

        Parallel(n_jobs=2)(delayed(task)() for _ in range(4))
        """
    )
    for _ in range(2):
        child.hear()
    child.interrupt()
    status, _, err = child.end()
    assert status in (-signal.SIGINT, 128 + signal.SIGINT)
    assert err.count("Traceback") == 1
    assert err.rstrip().endswith("KeyboardInterrupt")


# ---- in this process -----------------------------------------------------------------


def test_s68_signal_handler_that_raises(two_workers, signals):
    """Any exception of a handler ends the call; both workers are usable again."""

    def handler(signum, frame):
        raise LookupError("from the handler")

    def tasks():
        yield delayed(os.kill)(os.getpid(), signal.SIGUSR1)
        yield delayed(signals.wait)("never", 30)

    old = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(LookupError, match="from the handler"):
            Parallel(n_jobs=2)(tasks())
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(5)) == [0, 1, 2, 3, 4]
