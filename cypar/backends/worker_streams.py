"""What tasks print: a worker may be killed at any moment, and its buffers with it."""

from __future__ import annotations

import sys


def print_lines_at_once():
    """Write each line when it is printed, also to pipes and files.

    Otherwise what tasks print is lost when the program ends and its workers are killed.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.reconfigure(line_buffering=True)
        except (AttributeError, OSError, ValueError):
            pass  # none, or not Python's own


def flush_stdout():
    """Write lines that have no end yet; errors are those of a stream that is gone."""
    try:
        sys.stdout.flush()
    except Exception:
        pass
