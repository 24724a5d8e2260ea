"""Find the C function behind what a user hands to `Kernel`.

========================  ==================================================
"package.module", "name"  a Cython ``cdef`` or ``cpdef`` function that the
                          module exports: declared in a .pxd, or ``cdef api``
PyCapsule                 its name is the signature
scipy.LowLevelCallable    with its user data, if it has any
numba.cfunc               through its ctypes function
ctypes function           with ``argtypes`` and ``restype``, or a signature
NumPy ufunc               one of its inner loops, chosen by dtype; also of
                          numba.vectorize
========================  ==================================================
"""

from __future__ import annotations

import ctypes
import sys
from importlib import import_module
from types import ModuleType

from cypar.core import signatures
from cypar.core._capsules import capsule_context, capsule_name, capsule_pointer
from cypar.core._numpy_structs import loop_at
from cypar.core.signatures import Signature, Type


class Found:
    """A C function that was found.

    Attributes
    ----------
    address : int
    signature : Signature
    keep : object
        Must live as long as the function may be called.
    name : str
        For messages.
    source : tuple or None
        Arguments of `Kernel` that find it again in another process.
    loop_data : int or None
        For the inner loop of a ufunc: what it gets as its last argument.
    user_data : int or None
        Value of the last argument, a ``void *`` that callers do not give.
    """

    __slots__ = (
        "address",
        "keep",
        "loop_data",
        "name",
        "signature",
        "source",
        "user_data",
    )

    def __init__(self, address, signature, keep, name, source=None):
        self.address = address
        self.signature = signature
        self.keep = keep
        self.name = name
        self.source = source
        self.loop_data = None
        self.user_data = None


def find(source, name=None, signature=None, dtype=None):
    """Return the `Found` of a source; see the top of this module.

    Raises
    ------
    TypeError
        If the source is of another kind, or its signature is not supported.
    ValueError
        If the function cannot be found, or arguments contradict each other.
    """
    ufunc = _ufunc_of(source)
    if dtype is not None and ufunc is None:
        raise TypeError(
            f"dtype={dtype!r} is only for a ufunc, and {source!r:.80} is none"
        )
    if isinstance(source, str | ModuleType):
        return _from_module(source, name, signature)
    if name is not None:
        raise ValueError(
            f"name={name!r} is only for a module, and {source!r:.80} is none"
        )
    if ufunc is not None:
        return _from_ufunc(source, ufunc, signature, dtype)
    if type(source).__name__ == "PyCapsule":
        return _from_capsule(source, signature)
    if isinstance(source, ctypes._CFuncPtr):
        return _from_ctypes(source, signature, source)
    if _is_a(source, "scipy", "LowLevelCallable"):
        return _from_low_level_callable(source, signature)
    if hasattr(source, "address") and hasattr(source, "ctypes"):  # numba.cfunc
        found = _from_ctypes(source.ctypes, signature, source)
        found.name = getattr(source, "__name__", found.name)
        return found
    raise TypeError(
        f"a Kernel cannot be made of {source!r:.80} of type {type(source).__name__}: "
        "give a module and the name of a Cython function, a PyCapsule, a "
        "scipy.LowLevelCallable, a numba.cfunc, a ctypes function or a NumPy ufunc"
    )


def _ufunc_of(source):
    """Return a source's ufunc: itself, or that of a `numba.vectorize`; else None."""
    if isinstance(source, str | ModuleType):
        return None
    for ufunc in (source, getattr(source, "ufunc", None)):
        if _is_a(ufunc, "numpy", "ufunc"):
            return ufunc
    return None


def _is_a(source, package, name):
    """Like isinstance, without importing the package."""
    kind = getattr(sys.modules.get(package), name, None)
    return isinstance(kind, type) and isinstance(source, kind)


# ---- Cython and capsules -------------------------------------------------------


def _from_module(module, name, signature):
    if name is None:
        raise ValueError(
            "the name of the function is missing: Kernel('package.module', 'function')"
        )
    if isinstance(module, str):
        module = import_module(module)
    exported = getattr(module, "__pyx_capi__", {})
    if name not in exported:
        names = ", ".join(sorted(exported)) or "none"
        raise ValueError(
            f"the module {module.__name__} exports no C function {name!r}; it exports "
            f"{names}. A `cdef` function is exported if it is declared in a .pxd file "
            "of the module's name, or as `cdef api`"
        )
    found = _from_capsule(exported[name], signature, name)
    found.keep = module
    found.source = (module.__name__, name)
    return found


def _from_capsule(capsule, signature, name=None):
    text = capsule_name(capsule)
    if signature is None and not text:
        raise TypeError(
            f"{capsule!r} has no name, so its signature is unknown: give one, as in "
            "Kernel(capsule, signature='double (double)')"
        )
    name = name or "capsule"
    parsed = signatures.parse(signature or text, f"the kernel {name!r}")
    return Found(capsule_pointer(capsule), parsed, capsule, name)


def _from_low_level_callable(callable_, signature):
    function = callable_.function
    found = find(function, signature=signature or callable_.signature)
    found.keep = callable_
    if callable_.user_data is not None:
        arguments = found.signature.arguments
        if not arguments or not (
            arguments[-1].is_pointer and arguments[-1].code == "v"
        ):
            raise TypeError(
                f"the LowLevelCallable has user data, but the last argument of its "
                f"function is no void *: {found.signature.text}"
            )
        found.user_data = capsule_context(tuple.__getitem__(callable_, 0))
    return found


# ---- ctypes --------------------------------------------------------------------

_NUMBERS = {
    ctypes.c_float: "f",
    ctypes.c_double: "d",
    ctypes.c_char: "c",
    ctypes.c_bool: "?",
    **{
        kind: signatures.NAMES[name]
        for kind, name in {
            ctypes.c_byte: "signed char",
            ctypes.c_ubyte: "unsigned char",
            ctypes.c_short: "short",
            ctypes.c_ushort: "unsigned short",
            ctypes.c_int: "int",
            ctypes.c_uint: "unsigned int",
            ctypes.c_long: "long",
            ctypes.c_ulong: "unsigned long",
            ctypes.c_longlong: "long long",
            ctypes.c_ulonglong: "unsigned long long",
            ctypes.c_ssize_t: "ssize_t",
            ctypes.c_size_t: "size_t",
        }.items()
    },
}


def _from_ctypes(function, signature, keep):
    name = getattr(function, "__name__", "ctypes function")
    address = ctypes.cast(function, ctypes.c_void_p).value
    if signature is not None:
        parsed = signatures.parse(signature, f"the kernel {name!r}")
        return Found(address, parsed, keep, name)
    if function.argtypes is None:
        raise TypeError(
            f"the ctypes function {name!r} has no argtypes: set them and restype, or "
            f"give a signature: Kernel({name}, signature='double (double)')"
        )
    kinds = [function.restype, *function.argtypes]
    texts = [getattr(kind, "__name__", str(kind)) for kind in kinds]
    text = f"{texts[0]} ({', '.join(texts[1:])})"
    types = [
        _ctypes_type(kind, name, "the result" if i == 0 else f"argument {i - 1}", text)
        for i, kind in enumerate(kinds)
    ]
    parsed = signatures.checked(
        Signature(text, types[0], types[1:]), f"kernel {name!r}"
    )
    return Found(address, parsed, keep, name)


def _ctypes_type(kind, name, where, text):
    if kind is None:
        return Type("v", text="None")
    if kind is ctypes.c_void_p:
        return Type("v", is_pointer=True, text="c_void_p")
    if kind in _NUMBERS:
        return Type(_NUMBERS[kind], text=kind.__name__)
    target = getattr(kind, "_type_", None)
    is_pointer = isinstance(kind, type) and issubclass(kind, ctypes._Pointer)
    if is_pointer and target in _NUMBERS:
        return Type(_NUMBERS[target], is_pointer=True, text=kind.__name__)
    raise TypeError(
        signatures.unsupported(
            f"the kernel {name!r}", where, getattr(kind, "__name__", repr(kind)), text
        )
    )


# ---- NumPy ---------------------------------------------------------------------


def _from_ufunc(source, ufunc, signature, dtype):
    if signature is not None:
        raise TypeError(
            f"signature={signature!r} is not for a ufunc: its loop, which dtype= "
            "chooses, has one"
        )
    if dtype is None:
        raise TypeError(
            f"which of the {ufunc.ntypes} loops of {ufunc.__name__}? Give the type of "
            f"its input: Kernel({ufunc.__name__}, dtype='float64')"
        )
    wanted = sys.modules["numpy"].dtype(dtype)
    loops = [types.split("->") for types in ufunc.types]
    at = next(
        (i for i, (inputs, _) in enumerate(loops) if set(inputs) == {wanted.char}),
        next(
            (i for i, (inputs, _) in enumerate(loops) if inputs[:1] == wanted.char),
            -1,
        ),
    )
    if at < 0:
        raise TypeError(
            f"the ufunc {ufunc.__name__} has no loop for {wanted}; it has "
            f"{', '.join(ufunc.types) or 'none at all'}"
        )
    address, loop_data = loop_at(ufunc, at)
    inputs, outputs = loops[at]
    text = f"{ufunc.__name__} {inputs}->{outputs}"
    if len(inputs) > signatures.MAX_ARGUMENTS:
        raise TypeError(
            f"the ufunc {text} has {len(inputs)} inputs, at most "
            f"{signatures.MAX_ARGUMENTS} are supported: make a C function of it that "
            "gets pointers to rows of numbers"
        )
    parsed = Signature(
        text,
        _loop_type(outputs, text, "the result"),
        [_loop_type(c, text, f"argument {i}") for i, c in enumerate(inputs)],
    )
    found = Found(address, parsed, source, ufunc.__name__, (source,))
    found.loop_data = loop_data
    return found


def _loop_type(letter, text, where):
    """Return the type of a letter of NumPy's: `l` is as wide as `i` or `q`."""
    size = {"l": ctypes.sizeof(ctypes.c_long), "q": 8}
    if letter.lower() in size:
        code = "q" if size[letter.lower()] == 8 else "i"
        return Type(code if letter.islower() else code.upper(), text=letter)
    if letter not in "?bBhHiIfd":
        raise TypeError(
            f"{where} of the loop {text} is of the type {letter!r}, expected a number "
            "of at most 8 bytes: choose another dtype"
        )
    return Type(letter, text=letter)
