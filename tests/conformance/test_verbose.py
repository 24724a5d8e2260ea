"""What `verbose` prints: S29-S33, S41; progress hooks: P38."""

import re
from math import sqrt

import pytest

from cypar import Parallel, delayed

TIME = re.compile(r" +\d+\.\d(s|min)")


def lines(text):
    """Return the lines, times as ' 0.0s', without the line that names the backend."""
    text = TIME.sub(" 0.0s", text)
    return [line for line in text.splitlines() if "Using backend" not in line]


def test_s29_s67_silent_by_default(engine, capfd):
    engine.parallel()(delayed(abs)(i) for i in range(10))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("verbose", "stream"), [(49, "err"), (50, "out"), (51, "out")])
def test_s29_stream(engine, capsys, verbose, stream):
    engine.parallel(verbose=verbose)(delayed(abs)(i) for i in range(3))
    printed = capsys.readouterr()
    other = {"err": "out", "out": "err"}[stream]
    assert "Done   3 out of   3" in getattr(printed, stream)
    assert getattr(printed, other) == ""


def test_s29_higher_levels_print_more(engine, capsys):
    counts = []
    for verbose in (1, 5, 10, 11):
        engine.parallel(verbose=verbose, batch_size=1)(
            delayed(abs)(i) for i in range(60)
        )
        counts.append(len(lines(capsys.readouterr().err)))
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    assert counts[-1] in (60, 61)  # every task, and the last line


def test_s30_first_line_names_the_backend(parallel_engine, capsys):
    parallel_engine.parallel(verbose=1)([delayed(abs)(1)])
    first = capsys.readouterr().err.splitlines()[0]
    assert re.fullmatch(
        r"\[Parallel\(n_jobs=2\)\]: Using backend \w+ with 2 concurrent workers\.",
        first,
    )


def test_s31_format_of_lines(parallel_engine, capsys):
    parallel_engine.parallel(verbose=11, batch_size=1, pre_dispatch=2)(
        delayed(abs)(i) for i in range(4)
    )
    err = capsys.readouterr().err.splitlines()[1:]
    label = r"\[Parallel\(n_jobs=2\)\]: "
    elapsed = r"elapsed:  +\d+\.\ds"
    assert re.fullmatch(label + r"Done   1 tasks      \| " + elapsed, err[0])
    assert re.fullmatch(label + r"Done   2 tasks      \| " + elapsed, err[1])
    assert re.fullmatch(
        label + r"Done   4 out of   4 \| " + elapsed + r" remaining:  +\d+\.\ds",
        err[-2],
    )
    assert re.fullmatch(
        label + r"Done   4 out of   4 \| " + elapsed + " finished", err[-1]
    )


def test_s31_known_length_sets_the_width(parallel_engine, capsys):
    parallel_engine.parallel(verbose=11, batch_size=1, pre_dispatch=2)(
        [delayed(abs)(i) for i in range(12)]
    )
    err = lines(capsys.readouterr().err)
    assert err[0] == "[Parallel(n_jobs=2)]: Done  1 out of 12 | elapsed: 0.0s"


def test_s32_the_reference_listing(parallel_engine, capsys):
    parallel_engine.parallel(verbose=10, batch_size=1)(
        delayed(sqrt)(i) for i in range(10)
    )
    assert lines(capsys.readouterr().err) == [
        "[Parallel(n_jobs=2)]: Done   1 tasks      | elapsed: 0.0s",
        "[Parallel(n_jobs=2)]: Done   4 tasks      | elapsed: 0.0s",
        "[Parallel(n_jobs=2)]: Done  10 out of  10 | elapsed: 0.0s finished",
    ]


def test_s32_one_job_prints_the_same_format(capsys):
    Parallel(n_jobs=1, verbose=10)(delayed(abs)(i) for i in range(10))
    err = lines(capsys.readouterr().err)
    assert err[0] == "[Parallel(n_jobs=1)]: Done   1 tasks      | elapsed: 0.0s"
    assert err[-1] == (
        "[Parallel(n_jobs=1)]: Done  10 out of  10 | elapsed: 0.0s finished"
    )


@pytest.mark.parametrize("batch_size", [1, "auto"])
def test_s33_s41_producer_and_consumer(parallel_engine, capsys, batch_size):
    def producer():
        for i in range(6):
            print(f"Produced {i}")
            yield i

    out = parallel_engine.parallel(
        verbose=100, pre_dispatch="1.5*n_jobs", batch_size=batch_size
    )(delayed(sqrt)(i) for i in producer())
    assert out == [sqrt(i) for i in range(6)]
    assert lines(capsys.readouterr().out) == [
        "Produced 0",
        "Produced 1",
        "Produced 2",
        "[Parallel(n_jobs=2)]: Done   1 tasks      | elapsed: 0.0s",
        "Produced 3",
        "[Parallel(n_jobs=2)]: Done   2 tasks      | elapsed: 0.0s",
        "Produced 4",
        "[Parallel(n_jobs=2)]: Done   3 tasks      | elapsed: 0.0s",
        "Produced 5",
        "[Parallel(n_jobs=2)]: Done   4 tasks      | elapsed: 0.0s",
        "[Parallel(n_jobs=2)]: Done   6 out of   6 | elapsed: 0.0s remaining: 0.0s",
        "[Parallel(n_jobs=2)]: Done   6 out of   6 | elapsed: 0.0s finished",
    ]


def test_p38_print_progress_on_the_object(engine):
    """It is called once per task, whatever `verbose` is."""
    parallel, seen = engine.parallel(), []
    parallel.print_progress = lambda: seen.append(parallel.n_completed_tasks)
    parallel(delayed(abs)(i) for i in range(20))
    assert seen == list(range(1, 21))


def test_p38_counters_after_the_call(engine):
    parallel = engine.parallel()
    parallel(delayed(abs)(i) for i in range(20))
    assert parallel.n_completed_tasks == 20
    assert parallel.n_dispatched_tasks == 20


def test_p38_counters_while_the_call_runs(engine):
    seen = []

    def producer(parallel):
        for i in range(20):
            seen.append((parallel.n_dispatched_tasks, parallel.n_completed_tasks))
            yield delayed(abs)(i)

    parallel = engine.parallel()
    parallel(producer(parallel))
    assert [dispatched for dispatched, _ in seen] == list(range(20))
    assert all(completed <= dispatched for dispatched, completed in seen)
    assert seen[-1][1] > 0


def test_p38_print_progress_in_a_subclass():
    class Counting(Parallel):
        n_calls = 0

        def print_progress(self):
            self.n_calls += 1

    for name in ("sequential", "threading", "processes"):
        parallel = Counting(n_jobs=2, backend=name)
        parallel(delayed(abs)(i) for i in range(20))
        assert parallel.n_calls == 20


def test_p38_dispatch_next_is_harmless(parallel_engine):
    parallel = parallel_engine.parallel()
    parallel.print_progress = parallel.dispatch_next
    assert parallel(delayed(abs)(i) for i in range(20)) == list(range(20))
