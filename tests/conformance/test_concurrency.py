"""Calls from many threads, from tasks, event loops and other processes at once."""

import asyncio
import itertools

import pytest

from cypar import Parallel, TaskError, delayed

NAMES = ("sequential", "threading", "processes")


def fail_at(i, where):
    if i == where:
        raise KeyError(i)
    return i


def test_any_number_of_jobs_from_many_threads(engine, in_threads):
    def call(n_jobs, n):
        return engine.parallel(n_jobs=n_jobs)(delayed(abs)(-i) for i in range(n))

    sizes = list(
        zip([1, 2, 3, 4, 2, 1, 5, 3], [20, 1, 50, 7, 0, 3, 30, 2], strict=True)
    )
    outs = in_threads(*(lambda size=size: call(*size) for size in sizes))
    assert outs == [list(range(n)) for _, n in sizes]


def test_one_parallel_object_for_each_thread_and_many_calls(engine, in_threads):
    def calls(n_jobs):
        with engine.parallel(n_jobs=n_jobs) as parallel:
            return [parallel(delayed(abs)(-i) for i in range(9)) for _ in range(4)]

    assert (
        in_threads(*(lambda n=n: calls(n) for n in (2, 3, 2)))
        == [[list(range(9))] * 4] * 3
    )


def test_errors_of_one_call_leave_the_others_alone(engine, in_threads):
    def call(k):
        return engine.parallel(on_error="return")(
            delayed(fail_at)(i, k) for i in range(20)
        )

    for k, out in enumerate(in_threads(*(lambda k=k: call(k) for k in range(5)))):
        assert [i for i, r in enumerate(out) if isinstance(r, TaskError)] == [k]
        assert all(r == i for i, r in enumerate(out) if i != k)


@pytest.mark.parametrize("names", [*itertools.product(NAMES, repeat=3)], ids="-".join)
@pytest.mark.slow
def test_three_levels_of_any_backends(names):
    def level(names, i):
        if not names:
            return i
        return sum(
            Parallel(n_jobs=2, backend=names[0])(
                delayed(level)(names[1:], 10 * i + k) for k in range(2)
            )
        )

    expected = sum(int(f"{a}{b}{c}") for a, b, c in itertools.product((0, 1), repeat=3))
    assert level(names, 0) == expected


def test_a_failure_on_the_third_level_names_the_task_of_each(engine):
    def inner(i):
        return Parallel(n_jobs=2, backend="threading")(
            delayed(fail_at)(k, 1 if i == 3 else 9) for k in range(3)
        )

    def middle(i):
        return Parallel(n_jobs=2, backend="threading")(
            delayed(inner)(i + k) for k in range(2)
        )

    out = engine.parallel(on_error="return")(delayed(middle)(i) for i in range(6))
    failed = [i for i, r in enumerate(out) if isinstance(r, TaskError)]
    assert failed == [2, 3]
    assert [out[i].arguments for i in failed] == ["i=2", "i=3"]
    assert all(type(out[i].exception) is KeyError for i in failed)


def test_in_executors_of_an_event_loop(engine):
    def call(n):
        return engine.parallel()(delayed(abs)(-i) for i in range(n))

    async def main():
        loop = asyncio.get_running_loop()
        return await asyncio.gather(
            *(loop.run_in_executor(None, call, n) for n in (3, 30, 1, 10))
        )

    outs = asyncio.run(main())
    assert outs == [list(range(n)) for n in (3, 30, 1, 10)]


async def drain(generator, end):
    """Read a generator of results in the threads of an event loop."""
    loop = asyncio.get_running_loop()
    out = []
    while (value := await loop.run_in_executor(None, next, generator, end)) is not end:
        out.append(value)
    return out


def test_generators_in_an_event_loop(parallel_engine):
    async def main():
        generators = [
            parallel_engine.parallel(return_as="generator")(
                delayed(abs)(-i) for i in range(n)
            )
            for n in (5, 20)
        ]
        end = object()
        return await asyncio.gather(*(drain(g, end) for g in generators))

    assert asyncio.run(main()) == [list(range(5)), list(range(20))]


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("name", ["threading", "processes"])
@pytest.mark.slow
def test_in_workers_of_multiprocessing(run_script, method, name):
    result = run_script(
        """
        import multiprocessing, sys, warnings
        from cypar import Parallel, delayed
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads

        def call(n):
            return Parallel(n_jobs=2, backend=sys.argv[2])(
                delayed(abs)(-i) for i in range(n)
            )

        if __name__ == "__main__":
            assert call(5) == list(range(5))
            with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
                outs = pool.map(call, [3, 10, 1, 20])
            assert outs == [list(range(n)) for n in (3, 10, 1, 20)]
            assert call(7) == list(range(7))
            print("good")
        """,
        method,
        name,
    )
    assert result.stdout.split() == ["good"]
    assert result.stderr == ""


@pytest.mark.parametrize("name", ["threading", "processes", "multiprocessing"])
@pytest.mark.slow
def test_parent_and_forked_child_go_on_side_by_side(run_script, name):
    result = run_script(
        """
        import os, sys, warnings
        from cypar import Parallel, TaskError, delayed
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks with threads

        def fail(i):
            if i == 3:
                raise KeyError(i)
            return i

        def calls():
            for _ in range(3):
                out = Parallel(n_jobs=2, backend=sys.argv[1], on_error="return")(
                    delayed(fail)(i) for i in range(8)
                )
                assert isinstance(out[3], TaskError)
                assert out[:3] + out[4:] == [0, 1, 2, 4, 5, 6, 7]

        calls()
        pid = os.fork()
        calls()
        if pid == 0:
            sys.exit(0)
        _, status = os.waitpid(pid, 0)
        calls()
        print("child", status)
        """,
        name,
    )
    assert result.stdout.split() == ["child", "0"]
    assert result.stderr == ""
