"""Check the values that users give and turn them into plain numbers.

Every function returns the parsed value or raises ValueError that says what it got and
what it expects. What `pre_dispatch` may hold has a file of its own.
"""

from __future__ import annotations

import os

from cypar.core.sizes import parse_size

TYPE_CHECKING = False  # `typing` is slow to import; type checkers know this name
if TYPE_CHECKING:
    from typing import Any

# Beyond any real use, and small enough that pre_dispatch * batch_size fits 64 bits.
MAX_COUNT = 1 << 30

_MMAP_MODES = (None, "r", "r+", "w+", "c")
_PREFERENCES = (None, "processes", "threads")
_REQUIREMENTS = (None, "sharedmem")
_ON_ERROR = ("raise", "return")


def shown(value: object, max_length: int = 60) -> str:
    """Return ``repr(value)``, cut to a length that fits an error message."""
    if isinstance(value, (str, bytes)) and len(value) > max_length:
        return f"{value[:max_length]!r}... ({len(value)} characters)"
    try:
        text = repr(value)
    except Exception:  # the user's repr, or an int with too many digits
        return f"<{type(value).__name__}>"
    return text if len(text) <= max_length else text[:max_length] + "..."


def as_number(value: Any) -> int | float | None:
    """Return an int or a float for any kind of number, NumPy's too, else None."""
    kind = type(value)
    if kind is int or kind is float:
        return value  # type: ignore[no-any-return]
    if kind is bool or hasattr(kind, "__len__"):  # True, text, an array
        return None
    for convert in ("__index__", "__float__"):
        if hasattr(kind, convert):
            try:
                return getattr(kind, convert)(value)  # type: ignore[no-any-return]
            except (TypeError, ValueError, OverflowError):
                pass
    return None


def parse_n_jobs(n_jobs: Any) -> int:
    """Return ``n_jobs`` as an int; what negative numbers mean is the backend's.

    Unlike the other functions it raises TypeError for what is no number at all.
    """
    if type(n_jobs) is not int:
        try:
            if isinstance(n_jobs, bool):
                raise TypeError
            n_jobs = int(n_jobs)
        except (TypeError, ValueError, OverflowError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(
                f"n_jobs must be an integer or None, got {shown(n_jobs)}: "
                "give 1 for a serial loop, or -1 for all CPUs"
            ) from None
    if n_jobs == 0:
        raise ValueError(
            "n_jobs is 0, but zero jobs can do no work: "
            "give a positive number, or -1 for all CPUs"
        )
    return max(-MAX_COUNT, min(n_jobs, MAX_COUNT))  # type: ignore[no-any-return]


def parse_batch_size(batch_size: Any) -> int:
    """Return the tasks in one batch, or 0 for ``'auto'``."""
    if isinstance(batch_size, str) and batch_size == "auto":
        return 0
    number = as_number(batch_size)
    if not isinstance(number, int) or number < 1:
        raise ValueError(
            f"batch_size must be 'auto' or an integer >= 1, got {shown(batch_size)}"
        )
    return min(number, MAX_COUNT)


def parse_timeout(timeout: Any) -> float | None:
    """Return the seconds that one task may take, or None for no limit."""
    if timeout is None:
        return None
    number = as_number(timeout)
    if number is None or not number > 0:  # `not >` also refuses nan
        raise ValueError(
            f"timeout must be a number of seconds > 0 or None, got {shown(timeout)}"
        )
    try:
        seconds = float(number)
    except OverflowError:  # an int beyond every float
        return None
    return None if seconds == float("inf") else seconds


def parse_max_nbytes(max_nbytes: Any) -> int | None:
    """Return the size in bytes above which arrays are mapped, or None for never.

    Examples
    --------
    >>> parse_max_nbytes('1M'), parse_max_nbytes('1.5K'), parse_max_nbytes(1e6)
    (1048576, 1536, 1000000)
    """
    if max_nbytes is None:
        return None
    number: int | float | None
    if isinstance(max_nbytes, str):
        number = parse_size(max_nbytes)
    else:
        number = as_number(max_nbytes)
    if number is None or not number >= 0:  # `not >=` also refuses nan
        raise ValueError(
            "max_nbytes must be a number of bytes >= 0, a string such as '100K', "
            f"'1.5M' or '2G', or None to map no arrays; got {shown(max_nbytes)}"
        )
    return None if number == float("inf") else int(number)


def parse_temp_folder(temp_folder: Any) -> str | None:
    """Return the folder as a string; whether it can be used is found out later."""
    if temp_folder is None:
        return None
    try:
        return os.fsdecode(temp_folder)
    except TypeError:
        raise ValueError(
            f"temp_folder must be a path or None, got {shown(temp_folder)}"
        ) from None


def parse_verbose(verbose: Any) -> int | float:
    """Return the verbosity level as a plain number."""
    if isinstance(verbose, bool):
        return int(verbose)
    number = as_number(verbose)
    if number is None or number != number:
        raise ValueError(f"verbose must be a number, got {shown(verbose)}")
    return number


def parse_inner_max_num_threads(value: Any) -> int | None:
    """Return the BLAS and OpenMP threads that each worker may use."""
    if value is None:
        return None
    number = as_number(value)
    if not isinstance(number, int) or number < 1:
        raise ValueError(
            f"inner_max_num_threads must be an integer >= 1 or None, got {shown(value)}"
        )
    return min(number, MAX_COUNT)


def check_mmap_mode(mmap_mode: Any) -> str | None:
    """Return ``mmap_mode`` if it is one of the modes."""
    return _check_choice("mmap_mode", mmap_mode, _MMAP_MODES)


def check_prefer(prefer: Any) -> str | None:
    """Return ``prefer`` if it is one of the hints."""
    return _check_choice("prefer", prefer, _PREFERENCES)


def check_require(require: Any) -> str | None:
    """Return ``require`` if it is one of the constraints."""
    return _check_choice("require", require, _REQUIREMENTS)


def check_on_error(on_error: Any) -> str:
    """Return ``on_error`` if it is one of the two ways to treat a failed task."""
    return _check_choice("on_error", on_error, _ON_ERROR)  # type: ignore[return-value]


def parse_retries(retries: Any) -> int:
    """Return how often a task may be started again after its worker died."""
    number = as_number(retries)
    if not isinstance(number, int) or number < 0:
        raise ValueError(
            f"retries must be an integer >= 0, got {shown(retries)}: it counts how "
            "often a task is started again after its worker process died"
        )
    return min(number, MAX_COUNT)


def check_hints(prefer: str | None, require: str | None) -> None:
    """Refuse hint and constraint that contradict each other, given in one place."""
    if prefer == "processes" and require == "sharedmem":
        raise ValueError(
            "prefer='processes' and require='sharedmem' contradict each other: "
            "processes share no memory with the caller, leave one of them out"
        )


def _check_choice(name: str, value: Any, choices: tuple[str | None, ...]) -> str | None:
    # a list or an array must not reach `in`: it would compare element by element
    if (value is None or isinstance(value, str)) and value in choices:
        return None if value is None else str(value)
    expected = ", ".join(map(repr, choices))
    raise ValueError(f"{name} must be one of {expected}; got {shown(value)}")
