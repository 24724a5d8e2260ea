"""Tables for the terminal and JSON for the repository, from the results of rows."""

from __future__ import annotations

import json

HEAD = (
    "row",
    "unit",
    "cypar",
    "best peer",
    "joblib",
    "limit",
    "/peer",
    "/joblib",
    "/limit",
    "must",
    "aim",
)
LEGEND = (
    "Medians. /peer, /joblib, /limit: cypar's figure divided by theirs. "
    "must, aim: yes reached, NO not reached, ? not measured."
)


def table(results):
    """Return the lines of one theme's table.

    Parameters
    ----------
    results : list of Result

    Returns
    -------
    list of str
    """
    rows = [[[name] for name in HEAD]]
    rows += [_cells(result) for result in results]
    widths = [
        max(len(line) for row in rows for line in row[column])
        for column in range(len(HEAD))
    ]
    rule = "-+-".join("-" * width for width in widths)
    lines = []
    for row in rows:
        lines += [*_lines(row, widths), rule]
    return lines


def _lines(row, widths):
    """Return a row of cells of several lines each as lines of text."""
    for number in range(max(len(cell) for cell in row)):
        parts = (cell[number] if number < len(cell) else "" for cell in row)
        line = " | ".join(
            part.ljust(width) for part, width in zip(parts, widths, strict=True)
        )
        yield line.rstrip()


def _cells(result):
    """Return a row's cells, each a list of lines."""
    row = result.row
    ours = result.first("cypar")
    peer = result.best("peer")
    joblib = result.first("joblib")
    limit = result.first("limit")
    name = [row.key, *_wrapped(row.title, 26)]
    if not result.machine.get("reliable", True):
        name.append(f"UNRELIABLE: {result.machine['cores_of_two_spinners']:.2f} cores")
    return [
        name,
        [row.unit.symbol],
        _figure(ours, named=False),
        _figure(peer),
        _figure(joblib),
        _figure(limit),
        [_ratio(ours, peer)],
        [_ratio(ours, joblib)],
        [_ratio(ours, limit)],
        _verdicts(result, row.must),
        _verdicts(result, row.aim),
    ]


def _figure(summary, named=True):
    if summary is None:
        return ["-"]
    lines = [short(summary["median"])]
    if named:
        lines += _wrapped(summary["name"], 18)
    lines += [f"{name} {short(value)}" for name, value in summary["figures"].items()]
    return lines


def _ratio(ours, theirs):
    if ours is None or theirs is None or theirs["median"] == 0:
        return "-"
    return short(ours["median"] / theirs["median"])


def _verdicts(result, bounds):
    words = {True: "yes", False: "NO ", None: "?  "}
    return [
        f"{words[reached]} {text}" for text, reached in result.verdicts(bounds)
    ] or ["-"]


def _wrapped(text, width):
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def short(value):
    """Return a number with three significant digits, without an exponent."""
    if value != value:  # nan
        return "?"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".") if abs(value) >= 0.001 else f"{value:.4f}"


def details(result):
    """Return one line for each contender of a row."""
    yield f"{result.row.key}: {result.row.title} ({result.row.unit.symbol})"
    for s in result.summaries.values():
        figures = " ".join(f"{k}={short(v)}" for k, v in s["figures"].items())
        line = (
            f"  {s['role']:6} {s['name']:32} {short(s['median']):>9} "
            f"({short(s['min'])}..{short(s['max'])}) n={s['samples']} "
            f"{figures} {s['note']}"
        )
        yield line.rstrip()


def as_json(result):
    """Return the text of ``results/<row>.json``."""
    row = result.row

    def bounds(kind):
        return [
            {"bound": text, "reached": reached}
            for text, reached in result.verdicts(kind)
        ]

    document = {
        "row": row.key,
        "title": row.title,
        "unit": row.unit.symbol,
        "more_is_better": row.unit.more_is_better,
        "contenders": list(result.summaries.values()),
        "must": bounds(row.must),
        "aim": bounds(row.aim),
        "machine": result.machine,
    }
    return json.dumps(_rounded(document), indent=1) + "\n"


def _rounded(value):
    """Return the document with five significant digits in every float."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
