"""The lines that verbose prints, with a clock that the tests turn."""

import io
import sys

import pytest

from cypar.progress import ProgressPrinter, format_seconds

NAME = "Parallel(n_jobs=2)"


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def printer(verbose, length=None, clock=None):
    return ProgressPrinter(NAME, verbose, length, clock or Clock())


def run(progress, n_tasks, pre_dispatch=None, tick=lambda n_finished: None):
    """Report a call whose tasks finish one by one, each one followed by a draw."""
    ahead = n_tasks if pre_dispatch is None else pre_dispatch
    drawn = min(ahead, n_tasks)
    ended = pre_dispatch is None
    for n_finished in range(1, n_tasks + 1):
        tick(n_finished)
        progress.completed(
            n_finished, drawn, n_tasks if ended else None, pre_dispatch or 0
        )
        ended = drawn == n_tasks
        drawn = min(drawn + 1, n_tasks)
    progress.finished(n_tasks)


def lines(capsys, stream="err"):
    text = getattr(capsys.readouterr(), stream)
    assert text == "" or text.endswith("\n")
    return [line.removeprefix(f"[{NAME}]: ") for line in text.splitlines()]


def counts(printed):
    return [int(line.split()[1]) for line in printed]


def test_s30_first_line(capsys):
    printer(1).started("ThreadingBackend", 2)
    assert capsys.readouterr().err == (
        "[Parallel(n_jobs=2)]: Using backend ThreadingBackend with 2 concurrent "
        "workers.\n"
    )


def test_s31_s32_the_references_example(capsys):
    clock = Clock()

    def tick(n_finished):
        clock.now_s = 0.4 + 0.2 * ((n_finished + 1) // 2)

    run(printer(10, clock=clock), 10, pre_dispatch=4, tick=tick)
    assert capsys.readouterr().err == (
        "[Parallel(n_jobs=2)]: Done   1 tasks      | elapsed:    0.6s\n"
        "[Parallel(n_jobs=2)]: Done   4 tasks      | elapsed:    0.8s\n"
        "[Parallel(n_jobs=2)]: Done  10 out of  10 | elapsed:    1.4s finished\n"
    )


def test_s33_s41_the_references_producer_example(capsys):
    progress = printer(100)
    n_finished = 0

    def produce(index):
        print(f"Produced {index}")

    def finish(drawn, total=None):
        nonlocal n_finished
        n_finished += 1
        progress.completed(n_finished, drawn, total, pre_dispatch_tasks=3)

    for index in range(3):
        produce(index)
    for index in range(3, 6):
        finish(drawn=index)
        produce(index)
    finish(drawn=6)  # the draw after this one finds the end
    finish(drawn=6, total=6)
    finish(drawn=6, total=6)
    progress.finished(6)
    tag = f"[{NAME}]: "
    assert capsys.readouterr().out.splitlines() == [
        "Produced 0",
        "Produced 1",
        "Produced 2",
        tag + "Done   1 tasks      | elapsed:    0.0s",
        "Produced 3",
        tag + "Done   2 tasks      | elapsed:    0.0s",
        "Produced 4",
        tag + "Done   3 tasks      | elapsed:    0.0s",
        "Produced 5",
        tag + "Done   4 tasks      | elapsed:    0.0s",
        tag + "Done   6 out of   6 | elapsed:    0.0s remaining:    0.0s",
        tag + "Done   6 out of   6 | elapsed:    0.0s finished",
    ]


@pytest.mark.parametrize(
    ("verbose", "stream"), [(1, "err"), (49, "err"), (50, "out"), (100, "out")]
)
def test_s29_stream(capsys, verbose, stream):
    printer(verbose).finished(3)
    captured = capsys.readouterr()
    assert getattr(captured, stream).endswith("finished\n")
    assert captured.out == "" or captured.err == ""


def test_s29_more_lines_at_higher_levels(capsys):
    n_lines = []
    for verbose in (1, 5, 8, 10, 11):
        run(printer(verbose), 300, pre_dispatch=4)
        n_lines.append(len(lines(capsys)))
    assert n_lines == sorted(set(n_lines))


@pytest.mark.parametrize("pre_dispatch", [4, None], ids=["generator", "all"])
def test_s29_above_ten_all_tasks_but_the_last_but_one(capsys, pre_dispatch):
    run(printer(11), 30, pre_dispatch)
    assert counts(lines(capsys)) == [*range(1, 29), 30, 30]


@pytest.mark.parametrize(
    ("verbose", "printed"),
    [
        # seen from joblib 1.6 with n_jobs=2 and 200 tasks from a generator
        (1, [46, 196, 200]),
        (5, [14, 68, 158, 200]),
        (8, [1, 14, 37, 68, 109, 158, 200]),
    ],
)
def test_s32_distances_grow(capsys, verbose, printed):
    run(printer(verbose), 200, pre_dispatch=4)
    assert counts(lines(capsys)) == printed


def test_s32_serial_call_prints_the_same_format(capsys):
    progress = printer(5)
    for n_finished in range(1, 31):
        progress.completed(n_finished, n_finished)
    progress.finished(30)
    assert lines(capsys) == [
        "Done  17 tasks      | elapsed:    0.0s",
        "Done  30 out of  30 | elapsed:    0.0s finished",
    ]


def test_s32_whole_input_drawn_at_once(capsys):
    run(printer(5), 30)
    assert lines(capsys) == [
        *(
            f"Done  {n:2d} out of  30 | elapsed:    0.0s remaining:    0.0s"
            for n in (3, 10, 17, 24)
        ),
        "Done  30 out of  30 | elapsed:    0.0s finished",
    ]


def test_s31_width_of_a_known_length(capsys):
    run(printer(10, length=10), 10, pre_dispatch=4)
    assert lines(capsys) == [
        "Done  1 out of 10 | elapsed:    0.0s",
        "Done  4 out of 10 | elapsed:    0.0s",
        "Done 10 out of 10 | elapsed:    0.0s finished",
    ]


@pytest.mark.parametrize(
    ("length", "line"),
    [
        (None, "Done   7 out of   7 |"),
        (9, "Done 7 out of 7 |"),
        (1000, "Done    7 out of    7 |"),
        (0, "Done   7 out of   7 |"),
    ],
)
def test_s31_width(capsys, length, line):
    printer(1, length=length).finished(7)
    assert lines(capsys)[0].startswith(line)


def test_s31_remaining_time(capsys):
    clock = Clock()
    progress = printer(100, clock=clock)
    clock.now_s = 30.0
    progress.completed(2, 10, total=10)
    assert lines(capsys, "out") == [
        "Done   2 out of  10 | elapsed:   30.0s remaining:  2.0min"
    ]


def test_s32_batches_cannot_jump_over_a_line(capsys):
    progress = printer(5)
    for n_finished in range(1, 97):  # drawn in steps of 16, all finished one by one
        drawn = 16 * ((n_finished + 15) // 16)
        progress.completed(n_finished, drawn)
    assert counts(lines(capsys)) == [17, 65]  # at 32 and 80 tasks drawn


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "   0.0s"),
        (1.44, "   1.4s"),
        (60, "  60.0s"),
        (60.1, " 1.0min"),
        (72, " 1.2min"),
        (6000, "100.0min"),
    ],
)
def test_s31_durations(seconds, text):
    assert format_seconds(seconds) == text


def test_streams_are_looked_up_when_printing(monkeypatch):
    progress = printer(1)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    progress.finished(1)
    assert stream.getvalue().endswith("finished\n")


def test_no_stream_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    printer(1).finished(1)


def test_closed_stream_does_not_fail_the_call(monkeypatch):
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stderr", stream)
    printer(1).finished(1)


def test_each_line_is_one_write(monkeypatch):
    """Lines of calls in several threads must not mix."""
    written = []

    class Stream:
        def write(self, text):
            written.append(text)

    monkeypatch.setattr(sys, "stderr", Stream())
    progress = printer(1)
    progress.started("ThreadingBackend", 2)
    progress.finished(1)
    assert all(text.count("\n") == 1 and text.endswith("\n") for text in written)
    assert len(written) == 2
