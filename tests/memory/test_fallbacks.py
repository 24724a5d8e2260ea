"""No space, no descriptors, no permission: one warning, and the right result."""

import errno
import os
import resource
import subprocess
import sys
import threading

import numpy as np
import pytest

from cypar import CyparWarning, Parallel, delayed
from cypar.backends.pool import outbox
from cypar.transport import copies

M = 1 << 20
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def total(array):
    return float(array.sum()), type(array).__name__


def fail_to_make(monkeypatch, *arenas):
    def no_space():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for arena in arenas:
        monkeypatch.setattr(arena, "make_segment", no_space)


def run_some(parallel, n=6, **options):
    arrays = [np.full(2 * M // 8, float(i)) for i in range(n)]
    out = parallel(**options)(delayed(total)(a) for a in arrays for _ in range(2))
    assert [value for value, _ in out] == [
        float(i * 2 * M // 8) for i in range(n) for _ in range(2)
    ]
    return {kind for _, kind in out}


def test_no_shared_memory_but_a_disk(
    parallel, fresh_arena, monkeypatch, warnings_anew, until
):
    fail_to_make(monkeypatch, fresh_arena)
    with pytest.warns(CyparWarning, match="a temporary file is used") as caught:
        kinds = run_some(parallel)
    assert len(caught) == 1
    assert kinds == {"memmap"}
    # what a worker still holds at the end of the call goes when it lets go
    until(lambda: copies.disk_arena.trim(0) or not copies.disk_arena.segments)


def test_neither_memory_nor_disk(parallel, fresh_arena, monkeypatch, warnings_anew):
    fail_to_make(monkeypatch, fresh_arena, copies.disk_arena)
    with pytest.warns(CyparWarning) as caught:
        kinds = [run_some(parallel), run_some(parallel)]  # no second warning
    assert len(caught) == 1
    assert "or in a temporary file" in str(caught[0].message)
    assert "in messages" in str(caught[0].message)
    assert kinds == [{"ndarray"}] * 2


@pytest.mark.parametrize("kind", ["missing", "a file", "read-only"])
def test_a_temp_folder_that_cannot_be_used(parallel, tmp_path, kind, warnings_anew):
    folder = tmp_path / "folder"
    if kind == "a file":
        folder.write_text("")
    elif kind == "missing":
        folder = "/proc/no such folder"
    else:
        folder.mkdir(mode=0o500)
        if os.access(folder, os.W_OK):  # root may write everywhere
            folder = "/sys/kernel"
    with pytest.warns(CyparWarning, match="temporary folder.*without a name is used"):
        kinds = run_some(parallel, temp_folder=folder)
    assert kinds == {"memmap"}


@LINUX
def test_a_file_system_that_is_full(parallel, tmp_path, warnings_anew):
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(folder)],
        capture_output=True,
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small file system")
    try:
        with pytest.warns(CyparWarning, match="in the temporary folder") as caught:
            kinds = run_some(parallel, temp_folder=folder, pre_dispatch="all")
        assert len(caught) == 1
        assert kinds == {"memmap"}
        assert os.listdir(folder) == []
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@LINUX
def test_a_limit_on_the_size_of_files(run_script):
    script = """
        import resource, warnings
        import numpy as np
        from cypar import Parallel, delayed

        def total(a):
            return float(a.sum())

        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                out = Parallel(n_jobs=2)(
                    delayed(total)(np.full(400_000, float(i))) for i in range(8)
                )
                assert out == [i * 400_000.0 for i in range(8)]
        print(len(caught))
    """
    assert run_script(script).stdout.split() == ["1"]


@LINUX
def test_no_descriptors_left(run_script):
    script = """
        import os, resource, warnings
        import numpy as np
        from cypar import Parallel, delayed

        def total(a):
            return float(a.sum())

        run = Parallel(n_jobs=2, pre_dispatch="all", batch_size=1)
        run(delayed(total)(np.ones(10)) for _ in range(4))
        n = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (n + 8, n + 8))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                out = run(
                    delayed(total)(np.full(200_000, float(i))) for i in range(40)
                )
                assert out == [i * 200_000.0 for i in range(40)]
        print(len(caught))
    """
    assert run_script(script).stdout.split() == ["1"]


@LINUX
def test_workers_without_descriptors(run_script):
    """A worker that cannot map gets the bytes."""
    script = """
        import resource
        import numpy as np
        from cypar import Parallel, delayed

        def total(a):
            return float(a.sum()), type(a).__name__

        def limit(i):
            import os
            try:
                n = os.dup(0)  # the lowest that is free
            except OSError:
                return  # this worker has been here before
            os.close(n)
            resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))

        run = Parallel(n_jobs=2, batch_size=1)
        run(delayed(total)(np.ones(10)) for _ in range(4))
        run(delayed(limit)(i) for i in range(4))
        arrays = [np.full(200_000, float(i)) for i in range(20)]
        out = run(delayed(total)(a) for a in arrays)
        assert [value for value, _ in out] == [i * 200_000.0 for i in range(20)]
        assert out[-1][1] == "ndarray"
    """
    run_script(script)


@LINUX
def test_workers_without_descriptors_and_shared_objects(run_script):
    script = """
        import os, resource
        import numpy as np
        from cypar import Parallel, delayed, share

        def total(a):
            return float(a.sum())

        def limit():
            n = os.dup(0)  # the lowest that is free
            os.close(n)
            resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))

        run = Parallel(n_jobs=2, initializer=limit)
        handles = [share(np.full(200_000, float(i))) for i in range(3)]
        for _ in range(2):
            out = run(delayed(total)(handles[i % 3]) for i in range(12))
            assert out == [i % 3 * 200_000.0 for i in range(12)]
    """
    run_script(script)


def test_a_worker_that_may_not_open_the_parents_memory(
    parallel, monkeypatch, fresh_arena
):
    """As where /proc hides other processes: the task runs, and is not run twice."""
    original = outbox.SEGMENT

    class WrongPlace:
        size = original.size

        @staticmethod
        def pack(fd, capacity, inode):
            return original.pack(9999, capacity, inode)

    monkeypatch.setattr(outbox, "SEGMENT", WrongPlace)
    kinds = run_some(parallel, batch_size=1)
    assert kinds == {"ndarray"}


@LINUX
def test_memory_of_other_processes_is_no_secret_of_ours(parallel):
    """Nobody but the user may open the memory."""

    def mode(array):
        import stat

        return stat.S_IMODE(os.stat(array.filename).st_mode) & 0o077

    modes = parallel()(delayed(mode)(np.ones(M)) for _ in range(2))
    links = os.stat(f"/proc/{os.getpid()}/fd").st_mode & 0o077
    assert set(modes) == {0} or links == 0


def test_more_arrays_in_flight_than_descriptors(fresh_arena):
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    arrays = [np.full(M // 4, float(i)) for i in range(300)]
    run = Parallel(n_jobs=2, pre_dispatch="all", batch_size=1)
    out = run(delayed(np.sum)(a) for a in arrays)
    assert out == [float(i * (M // 4)) for i in range(300)]
    assert len(fresh_arena.segments) <= 140
    assert soft


def test_two_calls_at_once(fresh_arena):
    """They share the arena, and nothing else."""
    results = {}

    def call(k):
        run = Parallel(n_jobs=2, batch_size=1)
        shared = np.full(M // 4, float(k))
        results[k] = [
            run(delayed(total)(a) for a in (shared, np.full(M // 4, float(i))))
            for i in range(15)
        ]

    threads = [threading.Thread(target=call, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(4):
        assert [[value for value, _ in pair] for pair in results[k]] == [
            [k * M / 4, i * M / 4] for i in range(15)
        ]
