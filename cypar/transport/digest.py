"""A digest of a function's code, equal in every process that runs the same source.

Two processes compare it to find out whether they imported the same text. File name,
line numbers and the order of sets do not count; bytecode, constants, names, defaults
and, for decorated functions, the functions underneath do.
"""

from __future__ import annotations

from types import CodeType, FunctionType

from cypar.core._plain import is_immutable

try:
    from _blake2 import blake2b  # hashlib would load OpenSSL: 4 ms in every worker
except ImportError:
    from hashlib import blake2b

MAX_WRAPPERS = 8  # decorators looked through


def function_digest(function):
    """Return 16 bytes for what a Python function does.

    Parameters
    ----------
    function : function
        Objects without ``__code__``, but with ``__wrapped__`` (`functools.lru_cache`)
        are looked through; all others give the digest of nothing.
    """
    parts: list[str] = []
    _describe_function(function, parts, MAX_WRAPPERS)
    text = "\0".join(parts)
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _describe_function(function, parts, depth):
    if depth == 0:
        return
    if not isinstance(function, FunctionType):
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            _describe_function(wrapped, parts, depth - 1)
        return
    _describe_code(function.__code__, parts)
    for value in function.__defaults__ or ():
        _describe_value(value, parts, depth)
    for name, value in (function.__kwdefaults__ or {}).items():
        parts.append(name)
        _describe_value(value, parts, depth)
    for cell in function.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:  # not filled yet
            continue
        _describe_value(value, parts, depth)


def _describe_value(value, parts, depth):
    if isinstance(value, FunctionType):
        _describe_function(value, parts, depth - 1)
    elif is_immutable(value):
        _describe_constant(value, parts)
    else:
        parts.append(type(value).__name__)


def _describe_code(code, parts):
    parts += (
        code.co_code.hex(),
        repr((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)),
        repr((code.co_names, code.co_varnames, code.co_freevars, code.co_flags)),
    )
    for constant in code.co_consts:
        _describe_constant(constant, parts)


def _describe_constant(constant, parts):
    if isinstance(constant, CodeType):
        _describe_code(constant, parts)
    elif isinstance(constant, tuple):
        parts.append("(")
        for item in constant:
            _describe_constant(item, parts)
        parts.append(")")
    elif isinstance(constant, frozenset):  # its order differs between processes
        parts.append(repr(sorted(map(repr, constant))))
    else:
        parts.append(repr(constant))
