"""Measure one row: every contender in turn, round after round, in one process.

row         one line of a table: a workload, its unit, its contenders and its bounds
contender   one way to do the row's work: cypar, a peer, a limit of the machine
round       one sample (or `calls` samples) of every contender; the others take turns
            at being first, cypar comes last
value       one sample in the row's unit; a contender's figure is the median of them
bound       what cypar's figure must be or aims at: reported, never asserted

The clock of cypar's rounds is pytest-benchmark's: `benchmark.pedantic` calls cypar,
and its `setup` runs one round of everybody else. So they are interleaved, and what is
slow for a while is slow for all.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field

N_JOBS = 2  # workers of every contender: the targets are stated for two cores


@dataclass
class Settings:
    """How much is measured; set once per session, by conftest.py."""

    smoke: bool = False  # tiny sizes and two rounds: only to see that rows work
    budget_s: float = 18.0  # a row gets fewer rounds, at least 3, beyond this time
    rounds: int | None = None  # for every row, whatever it asks for

    def size(self, n, smallest=8):
        """Return a workload's size, or a small one in smoke mode."""
        return max(smallest, n // 100) if self.smoke else n


settings = Settings()


# ---- units ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """Turn seconds per operation into what a row reports.

    `convert` gets the seconds of one operation and those of the row's plain
    contender in the same round (None where a row has none).
    """

    symbol: str
    convert: Callable[[float, float | None], float]
    more_is_better: bool = False


MICROSECONDS = Unit("us", lambda seconds, plain: seconds * 1e6)
MILLISECONDS = Unit("ms", lambda seconds, plain: seconds * 1e3)
SECONDS = Unit("s", lambda seconds, plain: seconds)
EXTRA_MICROSECONDS = Unit("us over plain", lambda s, plain: (s - plain) * 1e6)
EFFICIENCY = Unit("of ideal", lambda s, plain: plain / N_JOBS / s, more_is_better=True)
# These two come from a contender's `judge`, not from a time.
TIMES_IDEAL = Unit("x ideal", lambda seconds, plain: float("nan"))
MEGABYTES = Unit("MB", lambda seconds, plain: float("nan"))


# ---- contenders ----------------------------------------------------------------------

ROLES = ("cypar", "joblib", "peer", "limit", "plain")


@dataclass
class Contender:
    """One way to do a row's work.

    Parameters
    ----------
    name : str
    role : {"cypar", "joblib", "peer", "limit", "plain"}
        "plain" is the loop without any library, where a unit refers to it.
    open : callable returning a context manager
        It gives the function to be timed; pools are started and closed around it.
    n : int
        Operations in one call of that function.
    calls : int
        Calls per round, each a sample of its own: for latencies.
    judge : callable, optional
        ``judge(result, seconds)`` returns a dict of figures of one call; "value" is in
        the row's unit and replaces the time.
    forks : bool
        Opened before the others, while there are fewer threads to be forked with.
    most_rounds : int, optional
        For contenders that would take all the time.
    note : str
        What else to know, such as a chunk size.
    """

    name: str
    role: str
    open: Callable[[], AbstractContextManager]
    n: int = 1
    calls: int = 1
    judge: Callable[[object, float], dict] | None = None
    forks: bool = False
    most_rounds: int | None = None
    note: str = ""
    run: Callable | None = field(default=None, init=False)
    rounds: list = field(default_factory=list, init=False)  # [[(seconds, dict)]]

    def __post_init__(self):
        if self.role not in ROLES:
            raise ValueError(f"role must be one of {ROLES}, got {self.role!r}")

    @classmethod
    def simple(cls, name, role, run, **options):
        """Return a contender that has nothing to start or to close."""
        return cls(name, role, lambda: nullcontext(run), **options)

    def begin_round(self):
        """Make room for the samples of one more round."""
        self.rounds.append([])

    def sample(self):
        """Run once and keep the time."""
        start = time.perf_counter()
        result = self.run()
        seconds = time.perf_counter() - start
        figures = self.judge(result, seconds) if self.judge else {}
        self.rounds[-1].append((seconds, figures))

    def play_round(self):
        """Take all samples of one round, unless it has had enough of them."""
        if self.most_rounds is not None and len(self.rounds) >= self.most_rounds:
            return
        self.begin_round()
        for _ in range(self.calls):
            self.sample()

    def seconds_in(self, index):
        """Return the seconds of one operation in a round."""
        index = min(index, len(self.rounds) - 1)
        return statistics.median(s for s, _ in self.rounds[index]) / self.n


# ---- bounds --------------------------------------------------------------------------


@dataclass(frozen=True)
class Bound:
    """``cypar <= factor * other + plus``, or >= if `at_least`."""

    factor: float
    of: str | None = None  # a contender's name, or "joblib"; None: a plain number
    plus: float = 0.0
    figure: str = "value"
    at_least: bool = False

    def text(self, symbol):
        """Return the bound as a table shows it."""
        sign = ">=" if self.at_least else "<="
        unit = symbol if self.figure == "value" else self.figure
        if self.of is None:
            return f"{sign} {self.factor:g} {unit}"
        figure = "" if self.figure == "value" else f" {self.figure}"
        times = "" if self.factor == 1.0 else f"{self.factor:.3g}x "
        plus = "" if not self.plus else f" {self.plus:+g}"
        return f"{sign} {times}{self.of}{figure}{plus}"

    def reached(self, result):
        """Return True or False, or None where one of the two was not measured."""
        ours = result.figure("cypar", self.figure)
        theirs = 1.0 if self.of is None else result.figure(self.of, self.figure)
        if ours is None or theirs is None:
            return None
        limit = self.factor * theirs + self.plus
        return ours >= limit if self.at_least else ours <= limit


def at_most(factor, of=None, **options):
    """Return the bound ``cypar <= factor * of``."""
    return Bound(factor, of, **options)


def at_least(factor, of=None, **options):
    """Return the bound ``cypar >= factor * of``."""
    return Bound(factor, of, at_least=True, **options)


# ---- rows ----------------------------------------------------------------------------


@dataclass
class Row:
    """A workload and who does it; `must` and `aim` are cypar's bounds."""

    key: str
    title: str
    unit: Unit
    contenders: list[Contender]
    must: list[Bound] = field(default_factory=list)
    aim: list[Bound] = field(default_factory=list)
    rounds: int = 11
    warm_up: bool = True  # False: each call starts from nothing anyway
    pause_s: float = 0.0  # before each round: threads of the one before may spin on
    budget_s: float | None = None  # None: the session's

    def __post_init__(self):
        names = [contender.name for contender in self.contenders]
        if len(set(names)) < len(names):
            raise ValueError(f"row {self.key}: two contenders share a name: {names}")

    @property
    def subject(self):
        """The contender that pytest-benchmark times: cypar, or a lone limit."""
        ours = [c for c in self.contenders if c.role == "cypar"]
        return (ours or self.contenders)[0]


@dataclass
class Result:
    """The figures of one row."""

    row: Row
    summaries: dict  # contender's name -> summary, in the row's order
    machine: dict = field(default_factory=dict)  # what it was measured on

    def figure(self, name, figure="value"):
        """Return a contender's median, or None; `name` may be a role.

        A role of several contenders stands for the first of them. The figure "best"
        is the best round's, for rows where only the others are disturbed by chance.
        """
        for summary in self.summaries.values():
            if name in (summary["name"], summary["role"]):
                if figure == "value":
                    return summary["median"]
                if figure == "best":
                    return summary["max" if self.row.unit.more_is_better else "min"]
                return summary["figures"].get(figure)
        return None

    def best(self, role):
        """Return the summary of the best contender of a role, or None."""
        choose = max if self.row.unit.more_is_better else min
        mine = [s for s in self.summaries.values() if s["role"] == role]
        return choose(mine, key=lambda s: s["median"], default=None)

    def first(self, role):
        """Return the summary of a role's first contender, or None."""
        for summary in self.summaries.values():
            if summary["role"] == role:
                return summary
        return None

    def verdicts(self, bounds):
        """Return [(text, True | False | None)] for a list of bounds."""
        symbol = self.row.unit.symbol
        return [(bound.text(symbol), bound.reached(self)) for bound in bounds]


def measure(row, pedantic):
    """Measure a row.

    Parameters
    ----------
    row : Row
    pedantic : callable
        ``benchmark.pedantic``, or anything that calls ``setup()`` and then
        ``target()`` `rounds` times.

    Returns
    -------
    Result
    """
    subject = row.subject
    others = [c for c in row.contenders if c is not subject]
    with ExitStack() as stack:
        for contender in sorted(row.contenders, key=lambda c: not c.forks):
            contender.run = stack.enter_context(contender.open())
        # pytest's many objects are no concern of the contenders' collections.
        gc.collect()
        gc.freeze()
        stack.callback(gc.unfreeze)
        rounds = _choose_rounds(row)
        turns = iter(range(rounds * subject.calls))

        def play_others():
            turn = next(turns)
            if turn % subject.calls == 0:
                first = turn // subject.calls % max(1, len(others))
                for contender in others[first:] + others[:first]:
                    time.sleep(row.pause_s)
                    contender.play_round()
                time.sleep(row.pause_s)
                subject.begin_round()

        pedantic(subject.sample, setup=play_others, rounds=rounds * subject.calls)
    return Result(row, {c.name: _summary(c, row) for c in row.contenders})


def _choose_rounds(row):
    """Warm everybody up and return how many rounds there is time for."""
    rounds = settings.rounds or (2 if settings.smoke else row.rounds)
    if not row.warm_up:
        return rounds
    start = time.perf_counter()
    for contender in row.contenders:
        contender.play_round()
        contender.rounds.clear()
    one_round_s = time.perf_counter() - start
    budget_s = row.budget_s or settings.budget_s
    return min(rounds, max(3, int(budget_s / one_round_s)))


def _summary(contender, row):
    """Return median, min and max of a contender's samples in the row's unit."""
    plain = next((c for c in row.contenders if c.role == "plain"), None)
    values, figures = [], {}
    for index, samples in enumerate(contender.rounds):
        plain_s = plain.seconds_in(index) if plain else None
        for seconds, found in samples:
            value = found.get("value")
            if value is None:
                value = row.unit.convert(seconds / contender.n, plain_s)
            values.append(value)
            for name, figure in found.items():
                figures.setdefault(name, []).append(figure)
    figures.pop("value", None)
    if contender.calls > 1:
        figures["p99"] = [sorted(values)[int(len(values) * 0.99)]]
    return {
        "name": contender.name,
        "role": contender.role,
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "rounds": len(contender.rounds),
        "samples": len(values),
        "operations": contender.n,
        "figures": {name: statistics.median(f) for name, f in figures.items()},
        "note": contender.note,
    }
