"""delayed(kernel)(...) in Parallel: packed when drawn, run in chunks, no GIL."""

import gc
import sys
import threading
import weakref

import numpy as np
import pytest

from cypar import Kernel, KernelError, Parallel, delayed


@pytest.fixture
def threads():
    return Parallel(n_jobs=2, prefer="threads")


@pytest.fixture
def rows():
    return list(np.random.default_rng(1).random((1000, 5)))


# ---- results -------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [1, 2, 4])
@pytest.mark.parametrize("batch_size", ["auto", 1, 7])
@pytest.mark.parametrize("pre_dispatch", ["2 * n_jobs", "all", 3])
def test_results_are_those_of_direct_calls(
    kernel, rows, n_jobs, batch_size, pre_dispatch
):
    row_sum = kernel("row_sum")
    parallel = Parallel(
        n_jobs, prefer="threads", batch_size=batch_size, pre_dispatch=pre_dispatch
    )
    results = parallel(delayed(row_sum)(row, 5) for row in rows)
    assert results == [row_sum(row, 5) for row in rows]


@pytest.mark.parametrize("batch_size", ["auto", 1, 3])
def test_beside_python_functions(kernel, batch_size):
    """A batch ends where a kernel comes."""
    inc = kernel("inc_b")
    tasks = [delayed((abs, inc)[i * i % 3])(i) for i in range(50)]
    results = Parallel(2, prefer="threads", batch_size=batch_size)(tasks)
    assert results == [function(*args) for function, args, _ in tasks]


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_generators(kernel, rows, return_as):
    row_sum = kernel("row_sum")
    parallel = Parallel(2, prefer="threads", return_as=return_as)
    results = list(parallel(delayed(row_sum)(row, 5) for row in rows))
    assert sorted(results) == sorted(row_sum(row, 5) for row in rows)


def test_results_of_all_types(kernel, threads):
    calls = [
        delayed(kernel("inc_b"))(-3),
        delayed(kernel("inc_Q"))(2**64 - 2),
        delayed(kernel("add_f"))(0.5, 0.25),
        delayed(kernel("half"))(3),
        delayed(kernel("scale"))(np.ones(2), 2, 3.0),
        delayed(Kernel(np.greater, dtype="f8"))(2.0, 1.0),
    ]
    assert threads(calls) == [-2, 2**64 - 1, 0.75, 1.5, None, True]


def test_kernels_and_callables_mix(kernel, threads, rows):
    row_sum, half = kernel("row_sum"), kernel("half")

    def calls():
        for i, row in enumerate(rows):
            if i % 5 == 0:
                yield delayed(float.__add__)(1.0, float(i))
            elif i % 7 == 0:
                yield delayed(half)(i)
            else:
                yield delayed(row_sum)(row, 5)

    assert threads(calls()) == Parallel(1)(calls())


def test_kernels_that_write(kernel, threads):
    x = np.ones((300, 4))
    threads(delayed(kernel("scale"))(row, 4, float(i)) for i, row in enumerate(x))
    assert x.tolist() == [[float(i)] * 4 for i in range(300)]


def test_progress_and_timeout_take_one_task_at_a_time(kernel, rows, capfd):
    row_sum = kernel("row_sum")
    expected = [row_sum(row, 5) for row in rows[:50]]
    verbose = Parallel(2, prefer="threads", verbose=60)
    assert verbose(delayed(row_sum)(row, 5) for row in rows[:50]) == expected
    assert "50 out of  50" in "".join(capfd.readouterr())
    timed = Parallel(2, prefer="threads", timeout=5)
    assert timed(delayed(row_sum)(row, 5) for row in rows[:50]) == expected


def test_kernels_run_at_the_same_time(kernel, functions):
    functions.take_counts()
    Parallel(3, prefer="threads")(delayed(kernel("sleep_ms"))(5) for _ in range(30))
    n_calls, most = functions.take_counts()
    assert n_calls == 30
    assert 2 <= most <= 3


def test_kernels_that_become_slow_get_more_workers(kernel, functions):
    functions.take_counts()
    calls = [delayed(kernel("sleep_ms"))(0 if i < 5000 else 3) for i in range(5300)]
    Parallel(2, prefer="threads")(calls)
    n_calls, most = functions.take_counts()
    assert n_calls == 5300
    assert most == 2


def test_python_runs_meanwhile(kernel):
    """The GIL is free while kernels run."""
    seen = threading.Event()
    thread = threading.Timer(0.05, seen.set)
    thread.start()
    Parallel(2, prefer="threads")(delayed(kernel("sleep_ms"))(10) for _ in range(30))
    assert seen.is_set()
    thread.join()


def test_kernels_under_a_process_backend(tmp_path, monkeypatch, functions, kernel):
    monkeypatch.syspath_prepend(functions.__file__.rpartition("/")[0])
    row_sum = kernel("row_sum")
    x = np.ones((20, 5))
    results = Parallel(2)(delayed(row_sum)(row, 5) for row in x)
    assert results == [5.0] * 20


# ---- arguments -----------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize(
    ("row", "n", "error"),
    [
        (np.ones(3, "f4"), 3, TypeError),
        (np.ones(2), 3, ValueError),
        (np.ones(6)[::2], 3, ValueError),
        ("text", 3, TypeError),
        (np.ones(3), 3.5, TypeError),
    ],
)
def test_wrong_arguments_are_refused_before_the_call(
    kernel, functions, n_jobs, row, n, error
):
    calls = [delayed(kernel("row_sum"))(np.ones(3), 3) for _ in range(3)]
    calls.append(delayed(kernel("row_sum"))(row, n))
    with pytest.raises(error, match="argument"):
        Parallel(n_jobs, prefer="threads")(calls)


def test_keyword_arguments_are_refused(kernel, threads):
    match = r"the kernel 'half' .* takes no keyword arguments, got 'x'"
    with pytest.raises(TypeError, match=match):
        threads([delayed(kernel("half"))(x=1.0)])
    with pytest.raises(TypeError, match=match):
        kernel("half")(x=1.0)


def test_arguments_are_taken_when_drawn(kernel, threads):
    """A buffer is held from the draw on, so the generator cannot resize it."""
    buffer = bytearray(b"\x01" * 4)
    errors = []

    def calls():
        for _ in range(3):
            yield delayed(kernel("sum_bytes"))(buffer, 4)
            try:
                buffer.append(1)
            except BufferError as exc:
                errors.append(exc)

    assert threads(calls()) == [4, 4, 4]
    assert errors
    buffer.append(1)  # all were let go


def test_nothing_is_kept_alive(kernel, threads):
    x = np.ones(4)
    reference = weakref.ref(x)
    row_sum = kernel("row_sum")
    before = sys.getrefcount(row_sum)
    assert threads(delayed(row_sum)(x, 4) for _ in range(500)) == [4.0] * 500
    del x
    gc.collect()
    assert reference() is None
    assert sys.getrefcount(row_sum) == before


def test_tasks_that_never_ran_are_let_go(kernel, threads):
    arrays = [np.ones(4)]
    reference = weakref.ref(arrays[0])
    fail = kernel("fail_raise", errors="exception")

    def calls():
        yield delayed(fail)(13)
        for _ in range(500):
            yield delayed(kernel("row_sum"))(arrays[0], 4)

    with pytest.raises(ValueError, match="item 13"):
        threads(calls())
    arrays.clear()
    gc.collect()
    assert reference() is None


# ---- failures ------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [1, 2, 4])
def test_an_exception_of_a_kernel(kernel, n_jobs):
    fail = kernel("fail_raise", errors="exception")
    with pytest.raises(ValueError, match=r"item 1?13") as info:
        Parallel(n_jobs, prefer="threads")(delayed(fail)(i) for i in range(5000))
    assert str(info.value) in ("item 13", "item 113")


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("errors", ["none", "exception"])
def test_an_exception_counts_whether_declared_or_not(kernel, n_jobs, errors):
    fail = kernel("raise_undeclared", errors=errors)
    power = Kernel(np.power, dtype="i8", errors=errors)
    parallel = Parallel(n_jobs, prefer="threads")
    for _ in range(3):
        with pytest.raises(ValueError, match=r"^101\.0 is too much"):
            parallel(delayed(fail)(101.0 * (i == 77)) for i in range(200))
        with pytest.raises(ValueError, match="negative integer powers"):
            parallel(delayed(power)(2, -(i == 77)) for i in range(200))
        assert parallel(delayed(fail)(1.0) for _ in range(200)) == [2.0] * 200


def test_no_exception_is_lost_in_a_thousand(kernel, threads):
    fail = kernel("fail_raise", errors="exception")
    n_raised = 0
    for i in range(1000):
        try:
            threads(delayed(fail)(13 if j == i % 20 else 1) for j in range(20))
        except ValueError:
            n_raised += 1
    assert n_raised == 1000


def test_a_negative_result_of_a_kernel(kernel, threads):
    fail = kernel("fail_negative", errors="negative")
    with pytest.raises(KernelError, match="returned -5"):
        threads(delayed(fail)(i) for i in range(2000))


def test_minus_one_is_a_result_like_others(kernel, threads):
    good = kernel("raise_or_minus_one", errors="exception")
    assert threads(delayed(good)(1.0) for _ in range(300)) == [-1.0] * 300


def test_a_call_works_after_a_failure(kernel, threads):
    fail = kernel("fail_raise", errors="exception")
    for _ in range(3):
        with pytest.raises(ValueError, match="item 13"):
            threads(delayed(fail)(i) for i in range(50))
        assert threads(delayed(fail)(1) for _ in range(50)) == [0] * 50


def test_nested_loops_of_kernels(kernel, rows):
    row_sum = kernel("row_sum")

    def inner(k):
        return sum(
            Parallel(2, prefer="threads")(delayed(row_sum)(r, 5) for r in rows[:k])
        )

    results = Parallel(2, prefer="threads")(delayed(inner)(k) for k in range(40))
    assert results == [sum(row_sum(r, 5) for r in rows[:k]) for k in range(40)]


def test_the_first_kernel_runs_while_another_worker_draws(kernel, threads, rows):
    """It changes how the input is drawn, in the middle of a draw."""
    row_sum = kernel("row_sum")
    together = threading.Barrier(2, timeout=20)
    kernels_have_run = threading.Event()

    def plain(i):
        together.wait()
        return i

    def tasks():
        yield from (delayed(plain)(i) for i in range(2))
        yield delayed(row_sum)(rows[0], 5)
        yield delayed(kernels_have_run.set)()
        # drawn by one of the two workers, when both are through with `plain`
        assert kernels_have_run.wait(20)
        yield from (delayed(abs)(-i) for i in range(500))

    results = threads(tasks())
    assert sorted(results[:2]) == [0, 1]
    assert results[2:4] == [row_sum(rows[0], 5), None]
    assert results[4:] == list(range(500))
