"""Find the inner loops of NumPy's ufuncs: the C functions behind them.

A ufunc has one loop for each combination of types. All get the same arguments: where
the numbers are, how many, and how far apart.
"""

from __future__ import annotations

import sys

from cypar.core._numpy_structs import loop_at

# Types of numbers that are nothing but their bytes: no objects, no long doubles.
LETTERS = "?bBhHiIlLqQefdFD"


def numpy_ufuncs():
    """Return all ufuncs that NumPy itself offers: they do nothing but calculate."""
    numpy = sys.modules["numpy"]
    return {f for f in list(vars(numpy).values()) if type(f) is numpy.ufunc}


def number_dtypes():
    """Return the dtypes of numbers that NumPy has one object each of."""
    numpy = sys.modules["numpy"]
    return [numpy.dtype(letter) for letter in LETTERS]


def loop_for(ufunc, dtype):
    """Return what a call with arrays of nothing but ``dtype`` runs.

    Returns
    -------
    tuple or None
        Address of the loop, its last argument, and the dtype of the result. None if
        NumPy would convert the arrays first, or the call is more than one such loop.
    """
    if ufunc.signature is not None or ufunc.nout != 1:
        return None
    try:
        *inputs, result = ufunc.resolve_dtypes((dtype,) * ufunc.nin + (None,))
        i = ufunc.types.index(f"{dtype.char * ufunc.nin}->{result.char}")
        address, data = loop_at(ufunc, i)
    except (AttributeError, TypeError, ValueError):  # NumPy before 1.25; no such loop
        return None
    singletons = number_dtypes()
    if any(d is not dtype for d in inputs) or not any(d is result for d in singletons):
        return None
    return address, data, result


def sample(dtype):
    """Return numbers of a type; every function is defined for some of them."""
    numpy = sys.modules["numpy"]
    if dtype.kind == "b":
        return numpy.arange(37) % 3 == 0
    if dtype.kind in "iu":
        return numpy.arange(1, 38).astype(dtype)
    return (numpy.arange(1, 38) / 20).astype(dtype)
