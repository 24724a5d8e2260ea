"""`python -m cypar demo` and `python -m cypar info`."""

from __future__ import annotations

import argparse
import sys

from cypar.cli import demo, info


def main(arguments=None):
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cypar", description="Parallel for loops on a compiled core."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (demo, info):
        name = module.__name__.rpartition(".")[2]
        summary = module.__doc__.splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
