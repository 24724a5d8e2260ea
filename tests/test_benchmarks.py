"""benchmarks/: the harness takes turns, judges and reports; one tiny row runs."""

import importlib
import json
from pathlib import Path

import pytest

from cypar import Parallel, delayed

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def harness(monkeypatch):
    return load(monkeypatch, "harness")


@pytest.fixture
def report(monkeypatch):
    return load(monkeypatch, "report")


@pytest.fixture
def workloads(monkeypatch):
    return load(monkeypatch, "workloads")


def load(monkeypatch, name):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module(name)


def pedantic(target, setup, rounds):
    """Do what ``benchmark.pedantic`` does, without the clock."""
    for _ in range(rounds):
        setup()
        target()


def fixed(harness, name, role, value, log=None):
    """Return a contender whose value is known."""
    return harness.Contender.simple(
        name,
        role,
        lambda: log is not None and log.append(name),
        judge=lambda result, seconds: {"value": value},
    )


def measured(harness, unit, ours, theirs, **bounds):
    row = harness.Row(
        "X1",
        "known figures",
        unit,
        [
            fixed(harness, "cypar", "cypar", ours),
            fixed(harness, "joblib-loky", "joblib", theirs),
        ],
        rounds=3,
        **bounds,
    )
    return harness.measure(row, pedantic)


def test_tiny_row_of_cypar_runs(harness):
    n = 20
    row = harness.Row(
        "X1",
        "tiny tasks",
        harness.MICROSECONDS,
        [
            harness.Contender.simple(
                "cypar",
                "cypar",
                lambda: Parallel(n_jobs=1)(delayed(abs)(i) for i in range(n)),
                n=n,
            ),
            harness.Contender.simple(
                "loop", "plain", lambda: [abs(i) for i in range(n)], n=n
            ),
        ],
        rounds=3,
    )
    result = harness.measure(row, pedantic)
    summary = result.first("cypar")
    assert 0 < summary["min"] <= summary["median"] <= summary["max"]
    assert summary["samples"] == 3


def test_contenders_take_turns_and_cypar_comes_last(harness):
    log = []
    row = harness.Row(
        "X1",
        "turns",
        harness.SECONDS,
        [fixed(harness, "us", "cypar", 1, log)]
        + [fixed(harness, name, "peer", 1, log) for name in "ab"],
        rounds=3,
        warm_up=False,
    )
    harness.measure(row, pedantic)
    assert log == ["a", "b", "us", "b", "a", "us", "a", "b", "us"]


def test_efficiency_refers_to_the_plain_loop_of_the_round(harness):
    assert harness.EFFICIENCY.convert(2.0, 4.0) == 1.0  # two cores, half the time


@pytest.mark.parametrize(
    ("ours", "expected"), [(0.2, True), (0.4, False)], ids=["reached", "missed"]
)
def test_bound_is_a_multiple_of_another_figure(harness, ours, expected):
    bound = harness.at_most(0.3, of="joblib")
    result = measured(harness, harness.SECONDS, ours, 1.0, must=[bound])
    assert result.verdicts([bound]) == [("<= 0.3x joblib", expected)]


@pytest.mark.parametrize(("unit", "expected"), [("SECONDS", 1.0), ("EFFICIENCY", 3.0)])
def test_bound_on_the_best_round(harness, unit, expected):
    values = iter([2.0, 3.0, 1.0])
    contender = harness.Contender.simple(
        "cypar", "cypar", lambda: None, judge=lambda *_: {"value": next(values)}
    )
    unit = getattr(harness, unit)
    row = harness.Row("X1", "", unit, [contender], rounds=3, warm_up=False)
    result = harness.measure(row, pedantic)
    assert result.figure("cypar") == 2.0
    assert result.figure("cypar", "best") == expected


def test_bound_on_a_contender_that_was_not_measured_is_undecided(harness):
    result = measured(harness, harness.SECONDS, 1.0, 1.0)
    assert harness.at_most(1.0, of="nobody").reached(result) is None


def test_table_shows_figures_ratio_and_verdict(harness, report):
    bound = harness.at_least(1.0, of="joblib", plus=-0.01)
    result = measured(harness, harness.EFFICIENCY, 0.5, 0.4, must=[bound])
    text = "\n".join(report.table([result]))
    for part in ("X1", "0.500", "joblib-loky", "1.25", "yes >= joblib -0.01"):
        assert part in text


def test_table_marks_a_row_measured_on_a_busy_machine(harness, report):
    result = measured(harness, harness.SECONDS, 1.0, 1.0)
    result.machine = {"reliable": False, "cores_of_two_spinners": 1.2}
    assert "UNRELIABLE: 1.20 cores" in "\n".join(report.table([result]))


def test_json_has_every_contender(harness, report):
    result = measured(harness, harness.SECONDS, 1.0, 2.0)
    contenders = json.loads(report.as_json(result))["contenders"]
    assert [(c["name"], c["median"]) for c in contenders] == [
        ("cypar", 1.0),
        ("joblib-loky", 2.0),
    ]


def test_shared_queue_gives_the_next_task_to_the_first_free_worker(workloads):
    assert workloads.shared_queue_makespan([3, 1, 1, 4], n_workers=2) == 6
