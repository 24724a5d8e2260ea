"""Tasks that do to a worker of the 'multiprocessing' backend what they should not."""

import os

import pytest

from cypar import Parallel, delayed

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="the workers' page needs POSIX memory"
)


def make_parallel(**options):
    return Parallel(n_jobs=2, backend="multiprocessing", **options)


# ---- tasks that fork -----------------------------------------------------------------


def returns(i):
    return "child"


def returns_much(i):
    return b"child" * 100_000


def raises(i):
    raise ValueError("child")


def leaves(i):
    raise SystemExit(3)


@pytest.mark.parametrize("batch_size", [1, 10])
@pytest.mark.parametrize("child", [returns, returns_much, raises, leaves])
def test_a_forked_child_does_not_speak_for_the_worker(tmp_path, child, batch_size):
    """Nor does it go on as a second worker: each task runs once."""
    log = tmp_path / "log"

    def task(i):
        with open(log, "ab", buffering=0) as file:
            file.write(b"%d\n" % i)
        if i == 3 and os.fork() == 0:
            return child(i)
        return i

    with make_parallel(batch_size=batch_size) as parallel:
        for _ in range(3):
            log.write_bytes(b"")
            assert parallel(delayed(task)(i) for i in range(40)) == list(range(40))
            assert sorted(map(int, log.read_text().split())) == list(range(40))


class ForksOnLoad:
    """In a worker, its forked child goes on to load as if it were the worker."""

    def __reduce__(self):
        return fork_and_return, (os.getpid(),)


def fork_and_return(parent):
    if os.getpid() != parent:
        os.fork()


@pytest.mark.parametrize("where", ["function", "argument"])
def test_a_child_forked_by_what_is_loaded_takes_no_tasks(where):
    forks = ForksOnLoad()
    in_function = forks if where == "function" else None

    def task(i, argument):
        return i, os.getpid(), in_function

    tasks = [delayed(task)(i, forks if where == "argument" else 0) for i in range(40)]
    out = make_parallel(batch_size=10)(tasks)
    assert [i for i, _, _ in out] == list(range(40))
    assert len({pid for _, pid, _ in out}) <= 2
