"""C signatures as text: ``double (const double *x, int64_t n)``.

Cython names its capsules so, with its own spelling of types; scipy and people write
them by hand. A type is known by a code, as in the `struct` module:

    b B h H i I q Q  integers of 1, 2, 4, 8 bytes;  f d  float and double
    v  void;  c  char;  ?  bool;  F D  complex (these three behind pointers only)
"""

from __future__ import annotations

import re
import struct

MAX_ARGUMENTS = 6

RECIPE = (
    "Declare it with int64_t, double and pointers to numbers, or wrap the function in "
    "a loop void (char **args, npy_intp *dimensions, npy_intp *steps, void *data) and "
    "make a ufunc of it"
)


class Type:
    """A C type: a number, void, or a pointer to numbers or to void.

    Attributes
    ----------
    code : str
        The type, or what it points to.
    is_pointer, is_const : bool
        Const: what the pointer leads to is not written.
    text : str
        As the signature has it.
    name : str
        Of the argument; empty if it has none.
    """

    __slots__ = ("code", "is_const", "is_pointer", "name", "text")

    def __init__(self, code, is_pointer=False, is_const=False, text="", name=""):
        self.code = code
        self.is_pointer = is_pointer
        self.is_const = is_const
        self.text = text or code
        self.name = name


class Signature:
    """The types of a function.

    Attributes
    ----------
    text : str
    result : Type
    arguments : list of Type
        Those that the caller gives.
    skips_dispatch : bool
        A last argument ``int __pyx_skip_dispatch`` follows: a cpdef function.
    """

    __slots__ = ("arguments", "result", "skips_dispatch", "text")

    def __init__(self, text, result, arguments, skips_dispatch=False):
        self.text = text
        self.result = result
        self.arguments = arguments
        self.skips_dispatch = skips_dispatch


def _integer(size, signed):
    code = {1: "b", 2: "h", 4: "i", 8: "q"}[size]
    return code if signed else code.upper()


def _names():
    """Return {name of a type: code} for this platform."""
    names = {"float": "f", "double": "d", "void": "v", "char": "c", "bint": "i"}
    names |= {"bool": "?", "_Bool": "?", "float32_t": "f", "float64_t": "d"}
    names |= {"float complex": "F", "double complex": "D"}
    names |= {"float_complex": "F", "double_complex": "D"}
    names |= {"complex64_t": "F", "complex128_t": "D"}
    for word, letter in {
        "short": "h",
        "int": "i",
        "long": "l",
        "long long": "q",
    }.items():
        size = struct.calcsize(letter)
        with_int = [word] if word == "int" else [word, f"{word} int"]
        for spelling in with_int:
            names[spelling] = names[f"signed {spelling}"] = _integer(size, True)
            names[f"unsigned {spelling}"] = _integer(size, False)
    names |= {"signed": names["int"], "unsigned": names["unsigned int"]}
    names |= {"signed char": "b", "unsigned char": "B"}
    word = struct.calcsize("n")
    for name in ("Py_ssize_t", "ssize_t", "ptrdiff_t", "intptr_t", "Py_hash_t"):
        names[name] = _integer(word, True)
    for name in ("size_t", "uintptr_t"):
        names[name] = _integer(word, False)
    for bits in (8, 16, 32, 64):
        names[f"int{bits}_t"] = _integer(bits // 8, True)
        names[f"uint{bits}_t"] = _integer(bits // 8, False)
    fixed = {name: code for name, code in names.items() if re.search(r"\d_t$", name)}
    names |= {f"npy_{name[:-2]}": code for name, code in fixed.items()}
    names |= {"npy_intp": names["ssize_t"], "npy_uintp": names["size_t"]}
    names |= {"npy_double": "d", "npy_float": "f", "npy_bool": "?"}
    return names


NAMES = _names()
# The words that C's own types consist of, in any order; as NAMES orders them.
SPECIFIERS = ["signed", "unsigned", "short", "long", "int", "char", "float", "double"]
SPECIFIERS += ["complex"]
QUALIFIERS = {"const", "volatile", "restrict", "__restrict", "__restrict__"}
WORDS = re.compile(r"\w+|\*|\S")
MANGLED = "__pyx_t_"


def parse(text, kernel="a kernel"):
    """Parse a signature.

    Parameters
    ----------
    text : str
        ``result (argument, argument, ...)``; arguments may have names.
    kernel : str
        What messages call the function.

    Returns
    -------
    Signature

    Raises
    ------
    TypeError
        If a type is not supported; names the argument.
    ValueError
        If the text is no signature.
    """
    match = re.fullmatch(r"\s*([^()]*?)\s*(?:\(\s*\*?\s*\w*\s*\)\s*)?\((.*)\)\s*", text)
    if match is None:
        raise ValueError(
            f"the signature of {kernel} is {text!r}, expected something like "
            "'double (const double *, int64_t)'"
        )
    result = _parse_type(match[1], text, kernel, "the result")
    parts = _split(match[2])
    skips_dispatch = bool(parts) and parts[-1].split()[-1:] == ["__pyx_skip_dispatch"]
    if skips_dispatch:
        parts.pop()
    arguments = [
        _parse_type(part, text, kernel, f"argument {i}") for i, part in enumerate(parts)
    ]
    return checked(Signature(text, result, arguments, skips_dispatch), kernel)


def _split(text):
    """Split at the commas that are not inside parentheses."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    parts.append(text[start:].strip())
    return [] if parts in ([""], ["void"]) else parts


def _parse_type(text, signature, kernel, where):
    words = WORDS.findall(text)
    stars = words.count("*")
    before = words[: words.index("*")] if stars else words
    after = words[words.index("*") :] if stars else []
    plain = [_unmangle(word) for word in before if word not in QUALIFIERS]
    code, name = _code_of(plain)
    rest = [word for word in after if word != "*" and word not in QUALIFIERS]
    if rest and not name:
        name = rest.pop(0)
    if code is None or rest or stars > 1 or not _is_name(name):
        raise TypeError(unsupported(kernel, where, text, signature))
    return Type(code, stars == 1, "const" in before, text, name)


def _code_of(words):
    """Return (code, name) of a type without its stars; a name may follow."""
    words = ["complex" if word == "_Complex" else word for word in words]
    n = next((i for i, word in enumerate(words) if word not in SPECIFIERS), len(words))
    n = max(n, 1)  # else a typedef
    code = NAMES.get(" ".join(sorted(words[:n], key=_rank)))
    if len(words) > n + 1:
        return None, ""
    return code, words[n] if len(words) > n else ""


def _rank(word):
    return SPECIFIERS.index(word) if word in SPECIFIERS else 0


def _is_name(word):
    """Whether an argument may be called so; it may also have no name."""
    is_type = word in NAMES or word in SPECIFIERS or word == "_Complex"
    return word == "" or (word.isidentifier() and not is_type)


def _unmangle(word):
    """Cython prefixes a typedef with its modules: ``__pyx_t_5numpy_float64_t``."""
    if not word.startswith(MANGLED):
        return word
    word = word[len(MANGLED) :]
    while match := re.match(r"\d+", word):
        word = word[match.end() + int(match[0]) + 1 :]
    return word


def checked(signature, kernel):
    """Return a signature, unless it has what no trampoline can pass."""
    for i, argument in enumerate(signature.arguments):
        if not argument.is_pointer and argument.code in "vcFD?":
            raise TypeError(
                unsupported(kernel, f"argument {i}", argument.text, signature.text)
            )
    result = signature.result
    if result.is_pointer or result.code in "cFD?":
        raise TypeError(unsupported(kernel, "the result", result.text, signature.text))
    n_arguments = len(signature.arguments) + signature.skips_dispatch
    if n_arguments > MAX_ARGUMENTS:
        raise TypeError(
            f"{kernel} has {n_arguments} arguments, at most {MAX_ARGUMENTS} are "
            f"supported: {signature.text}. {RECIPE}"
        )
    return signature


def unsupported(kernel, where, text, signature):
    """Return the message about a type that a kernel cannot have."""
    shown = _explained(text)
    return (
        f"{where} of {kernel} has the type {shown!r}, which a kernel cannot have: "
        f"{signature}. {RECIPE}. If the type is only another name of a supported "
        "one, give the signature yourself: Kernel(..., signature='double (double)')"
    )


def _explained(text):
    for sign, meaning in {
        "PyObject": "Python object",
        "__Pyx_memviewslice": "memoryview",
        "__pyx_opt_args": "optional arguments",
    }.items():
        if sign in text:
            return f"{text} ({meaning})"
    return text


# ---- classes of arguments: which trampoline passes them ------------------------------

# code -> field of a trampoline's slot
CLASSES = {
    "q": "w", "Q": "w", "d": "d", "f": "f", "i": "i", "I": "u",
    "h": "h", "H": "H", "b": "b", "B": "B", "v": "v",
}  # fmt: skip


def class_of(a_type):
    """Return the field of a trampoline's slot that passes a type."""
    if a_type.is_pointer:
        return "w"
    return CLASSES[a_type.code]
