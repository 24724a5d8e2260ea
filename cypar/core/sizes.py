"""Sizes that users write: '100K', '1.5M', '2G'."""

from __future__ import annotations

_UNIT_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_size(text: str) -> float | None:
    """Return the bytes that a string like '1.5M' stands for, None if it is no size."""
    digits, unit = text[:-1], text[-1:]
    plain = digits.replace(".", "", 1)
    if unit not in _UNIT_BYTES or not (plain.isascii() and plain.isdigit()):
        return None
    return _UNIT_BYTES[unit] * float(digits)
