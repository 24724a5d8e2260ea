"""The checker of the random programs: what it accepts and what it does not."""

import importlib
import sys
from pathlib import Path

import pytest

from cypar import WorkerCrash

FOLDER = Path(__file__).parent
MODULES = (
    "checker", "faults", "notes", "payloads", "programs", "runner", "surroundings",
    "tasks", "trigger",
)  # fmt: skip

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses /proc")


@pytest.fixture
def suite(monkeypatch):
    """Import the modules of this folder, for this test only."""
    monkeypatch.syspath_prepend(FOLDER)
    modules = {name: importlib.import_module(name) for name in MODULES}
    yield modules
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def program(suite):
    """A program of five tasks on processes, the third of which is killed."""
    found = suite["programs"].make_program(1, 0)
    changes = {
        "fault": "kill", "variant": "kill", "backend": "processes",
        "return_as": "list", "n_tasks": 5, "faulty": (2,), "payload": "index",
        "result": "number", "nested": None, "reading": "all", "retries": 0,
        "attempts": 0, "on_error": "raise", "faulty_call": 0, "writes": False,
    }  # fmt: skip
    return suite["programs"].dataclasses.replace(found, **changes)


class Judge:
    """Judges one call that is made up."""

    def __init__(self, suite, program):
        self.suite = suite
        self.program = program
        self.job = suite["tasks"].Job("", 0, program, {})
        self.record = suite["runner"].Record(0, True, program.n_tasks)
        note = suite["notes"].Note
        self.notes = [
            note(what, 0, index, 1, index / 10)
            for index in range(program.n_tasks)
            for what in ("started", "finished")
            if (what, index) != ("finished", 2)
        ]

    def value(self, index):
        return self.suite["tasks"].expected_value(self.job, index, index)

    def all_values(self):
        return [self.value(index) for index in range(self.program.n_tasks)]

    def crash(self, index=2, exitcode=-9):
        self.record.error = WorkerCrash("text", index, "run", exitcode)

    def healthy(self):
        """Take the fault out of the call, which then gives all values."""
        self.record.is_faulty = False
        self.record.complete = True
        self.record.results = self.all_values()
        return self

    def verdict(self):
        check = self.suite["checker"].check
        return check(self.program, [self.record], {0: self.job}, self.notes)


@pytest.fixture
def judge(suite, program):
    return Judge(suite, program)


def test_crash_of_the_right_task(judge):
    judge.crash()
    assert judge.verdict() == []


def test_healthy_call(judge):
    assert judge.healthy().verdict() == []


@pytest.mark.parametrize(
    ("index", "exitcode", "word"), [(3, -9, "blamed"), (2, -11, "exit code")]
)
def test_crash_of_another_task_or_kind(judge, index, exitcode, word):
    judge.crash(index, exitcode)
    (violation,) = judge.verdict()
    assert word in violation


def test_another_error(judge):
    judge.record.error = ValueError("something")
    (violation,) = judge.verdict()
    assert "ValueError" in violation


def test_no_error_in_spite_of_the_fault(judge):
    judge.record.complete = True
    judge.record.results = judge.all_values()
    assert any("no error" in violation for violation in judge.verdict())


def test_task_that_ran_twice(judge):
    judge.healthy().notes.append(judge.notes[0])
    assert any("ran 2 times" in violation for violation in judge.verdict())


def test_task_that_never_ran(judge):
    judge.healthy().notes = [note for note in judge.notes if note.index != 1]
    assert any("never ran" in violation for violation in judge.verdict())


def test_wrong_order(judge):
    judge.healthy().record.results.reverse()
    assert any("wrong result of task 0" in violation for violation in judge.verdict())


def test_lost_result(judge):
    judge.healthy().record.results.pop()
    assert any("4 results of 5" in violation for violation in judge.verdict())


def test_unordered_results(suite, program, judge):
    replace = suite["programs"].dataclasses.replace
    judge.program = replace(program, return_as="generator_unordered")
    judge.healthy().record.results.reverse()
    assert judge.verdict() == []
    judge.record.results[0] = judge.record.results[1]
    violations = judge.verdict()
    assert any("no task has" in violation for violation in violations)
    assert any("are missing" in violation for violation in violations)


def test_every_combination_is_drawn(suite):
    programs = suite["programs"]
    n = len(programs.CELLS)
    cells = [programs.make_program(3, number).cell for number in range(2 * n)]
    assert set(cells[:n]) == set(cells[n:]) == set(programs.CELLS)
    # 2,000 programs are to have each of them twenty times
    assert 2000 // n >= 20
