"""What travels and how: S16, S19-S21, S64, S69, P4, P8, P30, P31."""

import multiprocessing
import os
import threading
from pathlib import Path

import pytest

import cypar
from cypar import Parallel, ParallelBackendBase, delayed


def adder(n):
    return lambda x: x + n


def test_s19_lambdas_closures_and_local_classes(engine):
    class Local:
        def __init__(self, x):
            self.x = x

        def double(self):
            return 2 * self.x

    square = lambda x: x * x  # noqa: E731
    parallel = engine.parallel()
    assert parallel(delayed(square)(i) for i in range(4)) == [0, 1, 4, 9]
    assert parallel(delayed(adder(i))(1) for i in range(4)) == [1, 2, 3, 4]
    assert parallel(delayed(Local(i).double)() for i in range(4)) == [0, 2, 4, 6]
    out = parallel(delayed(Local)(i) for i in range(4))
    assert [type(value) for value in out] == [Local] * 4
    assert [value.x for value in out] == [0, 1, 2, 3]


def test_s19_recursive_and_mutually_recursive_functions(engine):
    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    assert engine.parallel()(delayed(even)(i) for i in range(4)) == [
        True,
        False,
        True,
        False,
    ]


def command_line():
    return Path("/proc/self/cmdline").read_bytes()


def test_s21_workers_start_by_exec():
    """No state of native libraries is inherited."""
    mine = command_line()
    for line in Parallel(n_jobs=2)(delayed(command_line)() for _ in range(2)):
        assert line != mine


def test_s21_blas_in_the_parent_and_in_workers(process_engine):
    import numpy  # not at the top: other tests need no numpy

    a = numpy.ones((200, 200))
    expected = float((a @ a).sum())
    out = process_engine.parallel()(
        delayed(lambda: float((a @ a).sum()))() for _ in range(4)
    )
    assert out == [expected] * 4


@pytest.mark.parametrize("process_engine", ["multiprocessing"], indirect=True)
def test_s16_forks_by_default(process_engine):
    mine = command_line()
    out = process_engine.parallel()(delayed(command_line)() for _ in range(2))
    assert out == [mine] * 2


@pytest.mark.slow
@pytest.mark.parametrize("process_engine", ["multiprocessing"], indirect=True)
@pytest.mark.parametrize("variable", ["JOBLIB_START_METHOD", "CYPAR_START_METHOD"])
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_s20_start_method(process_engine, run_script, variable, method):
    done = run_script(
        """
        import multiprocessing, os
        from cypar import Parallel, delayed

        def task():
            return type(multiprocessing.current_process()).__name__

        if __name__ == "__main__":
            print(*set(Parallel(n_jobs=2, backend="multiprocessing")(
                delayed(task)() for _ in range(4))))
        """,
        env={variable: method},
    )
    names = {
        "fork": "ForkProcess",
        "spawn": "SpawnProcess",
        "forkserver": "ForkServerProcess",
    }
    assert done.stdout.strip() == names[method]
    assert done.stderr == ""


class Modern(ParallelBackendBase):
    """The newer interface: submit and retrieve_result_callback."""

    supports_retrieve_callback = True
    supports_return_generator = True
    supports_sharedmem = True

    def __init__(self):
        super().__init__()
        self.log = []

    def effective_n_jobs(self, n_jobs):
        return 2

    def submit(self, func, callback=None):
        self.log.append(len(func))
        try:
            out = func()
        except BaseException as error:
            out = error
        callback(out)
        return out

    def retrieve_result_callback(self, out):
        if isinstance(out, BaseException):
            raise out
        return out

    def start_call(self):
        self.log.append("start")

    def stop_call(self):
        self.log.append("stop")


@pytest.mark.parametrize("parallel_engine", ["custom"], indirect=True)
class TestModernBackend:
    def test_s64_submit_and_retrieve(self, parallel_engine):
        backend = Modern()
        out = Parallel(n_jobs=2, backend=backend, batch_size=2)(
            delayed(abs)(-i) for i in range(5)
        )
        assert out == [0, 1, 2, 3, 4]
        assert backend.log == ["start", 2, 2, 1, "stop"]

    def test_s64_error(self, parallel_engine):
        backend = Modern()
        parallel = Parallel(n_jobs=2, backend=backend)
        with pytest.raises(ZeroDivisionError):
            parallel(delayed(divmod)(1, i) for i in (1, 0, 1))
        assert parallel([delayed(abs)(-1)]) == [1]
        assert backend.log.count("start") == backend.log.count("stop") == 2

    def test_s64_generator(self, parallel_engine):
        generator = Parallel(n_jobs=2, backend=Modern(), return_as="generator")(
            delayed(abs)(-i) for i in range(5)
        )
        assert list(generator) == [0, 1, 2, 3, 4]

    def test_s64_calls_do_not_overlap(self, parallel_engine):
        """An object serves one call after the other, also after an early close."""

        class Slow(Modern):
            def __init__(self):
                super().__init__()
                self.again = threading.Event()

            def start_call(self):
                super().start_call()
                if self.log.count("start") > 1:
                    self.again.set()

            def stop_call(self):
                self.again.wait(0.2)  # room for the next call to come too early
                super().stop_call()

        backend = Slow()
        parallel = Parallel(n_jobs=2, backend=backend, return_as="generator")
        generator = parallel(delayed(abs)(-i) for i in range(100))
        assert next(generator) == 0
        generator.close()
        assert list(parallel([delayed(abs)(-1)])) == [1]
        calls = [entry for entry in backend.log if isinstance(entry, str)]
        assert calls[:3] == ["start", "stop", "start"]


@pytest.mark.slow
def test_s69_registered_reducers(run_script):
    """Arguments and results alike."""
    done = run_script(
        """
        from cypar import Parallel, delayed, register_reducer

        class Celsius:
            def __init__(self, degrees):
                self.degrees = degrees

        def reduce_celsius(value):
            return Celsius, (value.degrees + 1,)

        register_reducer(Celsius, reduce_celsius)

        def same(value):
            return value

        out = Parallel(n_jobs=2)(delayed(same)(Celsius(i)) for i in range(3))
        print([value.degrees for value in out])
        """
    )
    assert done.stdout == "[2, 3, 4]\n"


def test_p04_counts_of_cpus(monkeypatch):
    assert 1 <= cypar.cpu_count() <= os.cpu_count()
    assert 1 <= cypar.cpu_count(only_physical_cores=True) <= cypar.cpu_count()
    assert cypar.effective_n_jobs(-1) == cypar.cpu_count()
    assert cypar.effective_n_jobs(3) == 3
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert cypar.cpu_count() == 1


def test_p30_wrapped_objects(process_engine):
    @cypar.wrap_non_picklable_objects
    def task(x):
        return x + 1

    assert process_engine.parallel()(delayed(task)(i) for i in range(3)) == [1, 2, 3]


def test_p31_arguments_are_pickled_once_per_task(process_engine, signals):
    class Argument:
        def __reduce__(self):
            signals.note("pickled", "x")
            return str, ()

    shared = Argument()
    out = process_engine.parallel()(delayed(len)(shared) for _ in range(30))
    assert out == [0] * 30
    assert len(signals.notes("pickled")) == 30


@pytest.mark.parametrize("process_engine", ["processes"], indirect=True)
def test_p31_a_function_is_pickled_once(process_engine, signals):
    """Unless it captures what may change; a constant of its class does not."""
    loads = []

    def count(i):
        return i

    parallel = process_engine.parallel()
    for _ in range(3):
        loads.append(parallel(delayed(count)(i) for i in range(50)))
    assert loads == [list(range(50))] * 3


def test_p08_workers_of_a_block_are_ready_after_an_error(parallel_engine):
    with parallel_engine.parallel() as parallel:
        for i in range(10):
            with pytest.raises(ZeroDivisionError):
                parallel(delayed(divmod)(1, j - i) for j in range(10))
            assert parallel([delayed(abs)(-i)]) == [i]
