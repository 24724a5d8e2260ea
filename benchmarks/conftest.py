"""The `measure` fixture, the spin check, and the tables at the end of the run."""

from __future__ import annotations

import os
from pathlib import Path

import harness
import machine
import pytest
import report

import cypar

SESSION = pytest.StashKey["Session"]()


class Session:
    """What one run of pytest has found out."""

    def __init__(self, config):
        self.folder = Path(config.getoption("results"))
        self.spinners = machine.Spinners()
        self.cores = [self.spinners.cores(0.3)]
        self.themes = {}  # title of a bench file -> [Result]
        self.description = machine.describe()

    def check(self):
        """Return how many cores two busy processes get now."""
        self.cores.append(self.spinners.cores())
        return self.cores[-1]

    def keep(self, theme, result):
        """Keep a result for the tables, and save it unless it is only smoke."""
        self.themes.setdefault(theme, []).append(result)
        if harness.settings.smoke:
            return
        self.folder.mkdir(exist_ok=True)
        file = self.folder / f"{result.row.key}.json"
        file.write_text(report.as_json(result), encoding="utf-8")


# ---- options and the run's beginning -------------------------------------------------


def pytest_addoption(parser):
    group = parser.getgroup("cypar's benchmarks")
    group.addoption(
        "--smoke",
        action="store_true",
        help="tiny sizes, two rounds, nothing saved: only to see that rows work",
    )
    group.addoption("--rounds", type=int, help="rounds of every row")
    group.addoption(
        "--budget",
        type=float,
        default=harness.settings.budget_s,
        help="seconds a row may take before it gets fewer rounds (default %(default)s)",
    )
    group.addoption("--details", action="store_true", help="list every contender")
    group.addoption(
        "--results",
        default=str(Path(__file__).parent / "results"),
        help="folder for <row>.json (default benchmarks/results)",
    )


def pytest_configure(config):
    harness.settings.smoke = config.getoption("smoke")
    harness.settings.rounds = config.getoption("rounds")
    harness.settings.budget_s = config.getoption("budget")


def pytest_collection_finish(session):
    """Check the machine before anything is measured, and say so first."""
    config = session.config
    if config.getoption("collectonly") or not session.items:
        return
    state = config.stash[SESSION] = Session(config)
    write = config.get_terminal_writer()
    write.line()
    for line in opening(state):
        write.line(line)


def pytest_unconfigure(config):
    if SESSION in config.stash:
        config.stash[SESSION].spinners.close()


def opening(state):
    """Yield the lines that stand above everything else."""
    d = state.description
    yield f"cypar {d['packages']['cypar']} ({d['commit']}) from {Path(cypar.__file__)}"
    yield f"{d['python']}, {d['system']}, {d['cpu_count']} x {d['processor']}"
    yield spin_line(state.cores[:1])
    if harness.settings.smoke:
        yield "SMOKE RUN: every number below is meaningless"


def spin_line(cores):
    """Return the verdict of one or all spin checks."""
    line = f"spin check: two busy processes get {min(cores):.2f} cores"
    if len(cores) > 1:
        line += f" in the worst of {len(cores)} checks"
    if min(cores) < machine.FEWEST_CORES:
        line += ": UNRELIABLE, the machine is busy or has no two cores"
    return line


# ---- one row -------------------------------------------------------------------------


@pytest.fixture
def measure(request, benchmark):
    """Return a function that measures a `harness.Row`, keeps and saves its result."""
    state = request.config.stash[SESSION]
    theme = request.module.__doc__.partition("\n")[0].rstrip(".")

    def measure_row(row):
        benchmark.group = f"{row.key}: {row.title}"
        cores, load = state.check(), os.getloadavg()[0]
        result = harness.measure(row, benchmark.pedantic)
        cores = min(cores, state.check())
        result.machine = {
            **state.description,
            "cores_of_two_spinners": cores,
            "load_average": load,
            "reliable": cores >= machine.FEWEST_CORES,
        }
        benchmark.extra_info["contenders"] = list(result.summaries.values())
        benchmark.extra_info["unit"] = row.unit.symbol
        state.keep(theme, result)
        return result

    return measure_row


# ---- the run's end -------------------------------------------------------------------


def pytest_terminal_summary(terminalreporter, config):
    state = config.stash.get(SESSION, None)
    if state is None or not state.themes:
        return
    for theme, results in state.themes.items():
        terminalreporter.section(theme, sep="=")
        for line in report.table(results):
            terminalreporter.write_line(line)
        if config.getoption("details"):
            for result in results:
                for line in report.details(result):
                    terminalreporter.write_line(line)
    terminalreporter.write_line(report.LEGEND)
    terminalreporter.write_line(spin_line(state.cores))
    if harness.settings.smoke:
        terminalreporter.write_line("SMOKE RUN: every number above is meaningless")
    else:
        terminalreporter.write_line(f"results: {state.folder}/*.json")
