"""What `pre_dispatch` means: how many batches may be drawn ahead of the results.

The string form is arithmetic over ``n_jobs``. It has its own small parser, because
strings that reach ``eval`` are a hole that others had to close (CVE-2022-21797).

    expression = operand (operator operand)*
    operand    = number | 'n_jobs' | '(' expression ')' | ('-' | '+') operand
    operator   = '+' '-' '*' '/' '//' '%' '**'      (precedence as in Python)
"""

from __future__ import annotations

from cypar.arguments import MAX_COUNT, as_number, shown

TYPE_CHECKING = False  # `typing` is slow to import; type checkers know this name
if TYPE_CHECKING:
    from typing import Any

DEFAULT = "2 * n_jobs"

# Together these bound the time and the stack that any string can take.
MAX_LENGTH = 100  # characters; so at most 100 nested parentheses, two frames each
MAX_VALUE = 10**15  # of each number and intermediate result; exact as a float
MAX_EXPONENT = 50

_SIGN_PRECEDENCE = 3  # binds tighter than * and looser than **
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "//": 2, "%": 2, "**": 4}
_SYMBOLS = ("**", "//", "+", "-", "*", "/", "%", "(", ")")
_DIGITS = "0123456789"


def parse_pre_dispatch(value: Any, n_jobs: int) -> int:
    """Return the number of batches to draw ahead, or 0 for ``'all'``.

    Parameters
    ----------
    value : 'all', number or str
        A string is arithmetic over ``n_jobs``, such as ``'1.5 * n_jobs'``.
    n_jobs : int
        The effective number of workers, at least 1.

    Returns
    -------
    int
        Truncated like ``int()``, but at least 1: a call whose window has no room would
        drop its tasks.

    Raises
    ------
    ValueError
        If the value is no arithmetic, or is zero or less.

    Examples
    --------
    >>> parse_pre_dispatch('1.5*n_jobs', n_jobs=2), parse_pre_dispatch('all', n_jobs=2)
    (3, 0)
    """
    if not isinstance(value, str):
        return _count(_plain_number(value), value)
    text = value.strip()
    if text == DEFAULT:  # nearly every call
        return min(2 * n_jobs, MAX_COUNT)
    if text == "all":
        return 0
    return _count(_evaluate(value, n_jobs), value, f" with n_jobs={n_jobs}")


def check_pre_dispatch(value: Any) -> None:
    """Raise the errors of `parse_pre_dispatch` that do not depend on ``n_jobs``.

    For the time when the number of workers is not known yet: ``'n_jobs - 1'`` is in
    order, though it would be refused with one worker.
    """
    if not isinstance(value, str):
        _count(_plain_number(value), value)
    elif value.strip() not in (DEFAULT, "all"):
        _evaluate(value, None)


def _plain_number(value: Any) -> int | float:
    number = as_number(value)
    if number is None or number != number or number == float("inf"):
        raise ValueError(
            "pre_dispatch must be 'all', a number or arithmetic over n_jobs such as "
            f"'2 * n_jobs', got {shown(value)}"
        )
    return number


def _count(number: int | float, value: Any, where: str = "") -> int:
    if number <= 0:
        raise ValueError(
            f"pre_dispatch must be greater than 0, got {shown(value)}{where}: "
            "no task would ever start"
        )
    return max(1, min(int(number), MAX_COUNT))


def _evaluate(text: str, n_jobs: int | None) -> int | float:
    if len(text) > MAX_LENGTH:
        raise ValueError(
            f"pre_dispatch may have at most {MAX_LENGTH} characters, got {shown(text)}"
        )
    try:
        return _Expression(text, n_jobs).value()
    except (_SyntaxProblem, ArithmeticError) as problem:
        raise ValueError(
            "pre_dispatch must be 'all', a number or arithmetic over n_jobs with "
            f"+ - * / // % ** and parentheses, got {shown(text)}: {problem}"
        ) from None


class _SyntaxProblem(Exception):
    """The string is no arithmetic, or its numbers are too large."""


class _Expression:
    """One pass over the tokens by precedence climbing; without n_jobs, a dry run."""

    def __init__(self, text: str, n_jobs: int | None) -> None:
        self.is_dry = n_jobs is None
        self.tokens = _tokens(text, 1 if n_jobs is None else n_jobs)
        self.position = 0

    def value(self) -> int | float:
        result = self.expression(0)
        if self.position < len(self.tokens):
            raise _SyntaxProblem(f"unexpected {self.tokens[self.position]!r}")
        return result

    def peek(self) -> Any:
        ended = self.position == len(self.tokens)
        return None if ended else self.tokens[self.position]

    def expression(self, min_precedence: int) -> int | float:
        left = self.operand()
        while True:
            operator = self.peek()
            precedence = _PRECEDENCE.get(operator, -1)
            if precedence < 0 or precedence < min_precedence:
                return left
            self.position += 1
            # ** groups from the right, and its exponent may have a sign: 2 ** -1
            is_power = operator == "**"
            right = self.expression(_SIGN_PRECEDENCE if is_power else precedence + 1)
            if not self.is_dry:
                left = _apply(operator, left, right)

    def operand(self) -> int | float:
        token = self.peek()
        self.position += 1
        if token is None:
            raise _SyntaxProblem("it ends too early")
        if token in ("-", "+"):
            number = self.expression(_SIGN_PRECEDENCE)
            return -number if token == "-" else number
        if token == "(":
            number = self.expression(0)
            if self.peek() != ")":
                raise _SyntaxProblem("a parenthesis is not closed")
            self.position += 1
            return number
        if isinstance(token, str):
            raise _SyntaxProblem(f"unexpected {token!r}")
        return _bounded(token)


def _tokens(text: str, n_jobs: int) -> list[Any]:
    """Split the string into numbers and symbols; ``n_jobs`` becomes its value."""
    tokens: list[Any] = []
    position = 0
    while position < len(text):
        char = text[position]
        if char in " \t\r\n":
            position += 1
        elif char in _DIGITS or char == ".":
            end = position
            while end < len(text) and text[end] in _DIGITS + ".":
                end += 1
            tokens.append(_number(text[position:end]))
            position = end
        elif char.isalpha() or char == "_":
            end = position
            while end < len(text) and (text[end].isalnum() or text[end] == "_"):
                end += 1
            if text[position:end] != "n_jobs":
                raise _SyntaxProblem(f"unknown name {shown(text[position:end])}")
            tokens.append(n_jobs)
            position = end
        else:
            symbol = next((s for s in _SYMBOLS if text.startswith(s, position)), None)
            if symbol is None:
                raise _SyntaxProblem(f"unexpected {char!r}")
            tokens.append(symbol)
            position += len(symbol)
    return tokens


def _number(digits: str) -> int | float:
    try:
        if "." in digits:
            return float(digits)
        if digits[0] == "0" and digits.strip("0"):  # no number in Python either
            raise ValueError
        return int(digits)
    except ValueError:  # '1.2.3', a lone '.' or '01'
        raise _SyntaxProblem(f"{digits!r} is no number") from None


def _apply(operator: str, left: int | float, right: int | float) -> int | float:
    result: Any
    if operator == "+":
        result = left + right
    elif operator == "-":
        result = left - right
    elif operator == "*":
        result = left * right
    elif operator == "/":
        result = left / right
    elif operator == "//":
        result = left // right
    elif operator == "%":
        result = left % right
    else:
        if abs(right) > MAX_EXPONENT:
            raise _SyntaxProblem(f"an exponent is larger than {MAX_EXPONENT}")
        result = left**right
        if isinstance(result, complex):
            raise _SyntaxProblem("a negative number has no such root")
    return _bounded(result)


def _bounded(number: int | float) -> int | float:
    if abs(number) > MAX_VALUE:
        raise _SyntaxProblem(f"a number is larger than {MAX_VALUE:.0e}")
    return number
