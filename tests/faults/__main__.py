"""Random programs with random faults: ``python tests/faults -n 200 --seed 1``.

A violation is printed with the command that runs its program again.
"""

import argparse
import os
import sys
import time
from collections import Counter

from driver import PROGRAM_S, Driver
from programs import CELLS, IMPOSSIBLE, RETURN_AS, make_program

EACH = 20  # programs of each cell that a full run must have


def parse(arguments):
    parser = argparse.ArgumentParser(prog="python tests/faults", description=__doc__)
    parser.add_argument("-n", type=int, default=200, help="number of programs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument(
        "--only", help="numbers of single programs, as 5 or 5,9,12: in one interpreter"
    )
    parser.add_argument("--fault", help="only programs with this fault")
    parser.add_argument("--backend", help="only programs on this backend")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each program")
    parser.add_argument("-j", type=int, default=os.cpu_count(), help="interpreters")
    parser.add_argument("-x", action="store_true", help="stop at the first violation")
    parser.add_argument(
        "--limit", type=float, default=PROGRAM_S, help="seconds until a program hangs"
    )
    parser.add_argument("--show", action="store_true", help="print the programs only")
    return parser.parse_args(arguments)


def numbers_of(options):
    """Return the numbers of the programs that were asked for."""
    if options.only:
        return [int(number) for number in options.only.split(",")]
    numbers = range(options.first, options.first + options.n)
    chosen = []
    for number in numbers:
        program = make_program(options.seed, number)
        if options.fault in (None, program.fault) and options.backend in (
            None,
            program.backend,
        ):
            chosen.append(number)
    return chosen


class Report:
    """Counts verdicts and prints violations as they come."""

    def __init__(self, n_all):
        self.n_all = n_all
        self.n_done = 0
        self.counts = Counter()
        self.bad = []
        self.slowest = 0.0
        self.gone_s = 0.0
        self.begun = time.monotonic()

    def add(self, verdict):
        self.n_done += 1
        self.counts[verdict.program.cell] += 1
        self.slowest = max(self.slowest, verdict.seconds)
        self.gone_s = max(self.gone_s, verdict.gone_s or 0.0)
        if verdict.violations:
            self.bad.append(verdict.program)
            self.print_violations(verdict)
        if self.n_done % 100 == 0:
            seconds = time.monotonic() - self.begun
            print(
                f"{self.n_done} of {self.n_all} programs, {len(self.bad)} with "
                f"violations, {seconds:.0f} s",
                flush=True,
            )

    def print_violations(self, verdict):
        program = verdict.program
        print(f"\nprogram {program.number}: {program}")
        for violation in verdict.violations:
            print(f"  {violation}")
        print(f"  again: {replay(program.seed, [program.number])}")
        if verdict.before:
            before = [*verdict.before, program.number]
            print(f"  after its forerunners: {replay(program.seed, before)}")
        sys.stdout.flush()

    def print_table(self):
        """Print the counts per cell, and what cannot be combined."""
        print(
            "\nprograms by fault, backend and return_as (" + ", ".join(RETURN_AS) + ")"
        )
        for fault, backend in dict.fromkeys(cell[:2] for cell in CELLS):
            counts = [self.counts[fault, backend, how] for how in RETURN_AS]
            print(f"  {fault:12} {backend:16} " + " ".join(f"{n:5}" for n in counts))
        print("not combined:")
        for (fault, backend), reason in IMPOSSIBLE.items():
            print(f"  {fault:12} {backend:16} {reason}")

    def print_summary(self, seed):
        least = min(self.counts[cell] for cell in CELLS)
        print(
            f"seed {seed}: {self.n_done} programs in "
            f"{time.monotonic() - self.begun:.0f} s, at least {least} of each of "
            f"{len(CELLS)} combinations; slowest {self.slowest:.1f} s; after the end "
            f"of an interpreter its processes were gone within {self.gone_s:.2f} s"
        )
        if self.bad:
            names = ", ".join(str(program.number) for program in self.bad)
            print(f"{len(self.bad)} programs with violations: {names}")
        else:
            print("no violation")


def replay(seed, numbers):
    return f"python tests/faults --seed {seed} --only {','.join(map(str, numbers))}"


def main():
    options = parse(sys.argv[1:])
    numbers = numbers_of(options) * options.repeat
    if options.show:
        for number in numbers:
            print(number, make_program(options.seed, number))
        return 0
    report = Report(len(numbers))
    driver = Driver(
        options.seed, numbers, options.j, report.add, options.x, options.limit
    )
    driver.run()
    if not options.only:
        report.print_table()
    report.print_summary(options.seed)
    if driver.mountable is False:
        print("no file system could be mounted: full disks were size limits instead")
    return 1 if report.bad or report.n_done < len(numbers) else 0


if __name__ == "__main__":
    sys.exit(main())
