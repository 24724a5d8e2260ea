"""Kernel: where functions come from, and how kernels travel."""

import ctypes
import ctypes.util
import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cypar import Kernel, Parallel, delayed


def test_by_module_name(functions):
    row_sum = Kernel("kernel_functions", "row_sum")
    assert row_sum(np.ones(3), 3) == 3.0
    assert repr(row_sum) == ("<Kernel 'row_sum': double (double const *, int64_t)>")


@pytest.mark.parametrize("name", ["take_counts", "missing", None])
def test_a_function_that_is_not_exported(functions, name):
    with pytest.raises(ValueError, match=r"exports no C function|name .* is missing"):
        Kernel(functions, name)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("takes_object", "result .*Python object"),
        ("takes_view", "argument 0 .*memoryview"),
        ("seven", "7 arguments"),
        ("pointers", "argument 0 "),
        ("five_mixed", r"argument 1 \(int\)"),
        ("hidden_fifth", "the int that Cython adds .*cpdef"),
    ],
)
def test_signatures_that_are_not_supported(kernel, name, match):
    with pytest.raises(TypeError, match=match):
        kernel(name)


def test_a_capsule(functions):
    capsule = functions.__pyx_capi__["half"]
    assert Kernel(capsule)(3.0) == 1.5


def test_a_ctypes_function(functions):
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    libm.cos.restype = ctypes.c_double
    with pytest.raises(TypeError, match="argtypes"):
        Kernel(libm.cos)
    assert Kernel(libm.cos, signature="double (double)")(0.5) == math.cos(0.5)
    libm.cos.argtypes = [ctypes.c_double]
    assert Kernel(libm.cos)(0.5) == math.cos(0.5)


def test_a_ctypes_callback():
    """It takes the GIL by itself, on whatever thread it is called."""
    prototype = ctypes.CFUNCTYPE(
        ctypes.c_int64, ctypes.POINTER(ctypes.c_double), ctypes.c_int64
    )
    function = prototype(lambda x, n: int(sum(x[:n])))
    kernel = Kernel(function)
    assert kernel(np.ones(5), 5) == 5
    rows = np.ones((100, 5))
    assert kernel.map(rows, 5, n_jobs=2).tolist() == [5] * 100


def test_ctypes_types_that_are_not_supported():
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.py_object)
    with pytest.raises(TypeError, match=r"argument 0 .*py_object"):
        Kernel(prototype(lambda x: 0))


def test_a_low_level_callable(functions):
    scipy = pytest.importorskip("scipy")
    source = scipy.LowLevelCallable.from_cython(functions, "row_sum")
    assert Kernel(source)(np.ones(4), 4) == 4.0


def test_user_data_of_a_low_level_callable():
    scipy = pytest.importorskip("scipy")
    prototype = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double, ctypes.c_void_p)
    function = prototype(
        lambda x, data: x * ctypes.cast(data, ctypes.POINTER(ctypes.c_double))[0]
    )
    factor = ctypes.c_double(4.0)
    user_data = ctypes.cast(ctypes.pointer(factor), ctypes.c_void_p)
    kernel = Kernel(scipy.LowLevelCallable(function, user_data))
    assert kernel(2.0) == 8.0
    assert kernel.map(np.arange(3.0)).tolist() == [0.0, 4.0, 8.0]


def test_a_numba_cfunc():
    numba = pytest.importorskip("numba")
    types = numba.types

    @numba.cfunc(types.float64(types.CPointer(types.float64), types.int64))
    def total(x, n):
        s = 0.0
        for i in range(n):
            s += x[i]
        return s

    kernel = Kernel(total)
    assert kernel.name == "total"
    assert kernel(np.ones(3), 3) == 3.0


def test_a_ufunc():
    assert Kernel(np.hypot, dtype="f8")(3.0, 4.0) == 5.0
    assert Kernel(np.negative, dtype="i4")(7) == -7
    assert Kernel(np.greater, dtype="f8")(2.0, 1.0) is True
    assert Kernel(np.ldexp, dtype="f8")(1.5, 2) == 6.0


@pytest.mark.parametrize(
    ("ufunc", "dtype", "match"),
    [
        (np.sqrt, None, "dtype="),
        (np.sqrt, "c16", "type 'D'"),
        (np.modf, "f8", "one result"),
        (np.matmul, "f8", "one result"),
        (np.bitwise_and, "f8", "no loop for float64"),
    ],
)
def test_ufuncs_that_are_not_supported(ufunc, dtype, match):
    with pytest.raises(TypeError, match=match):
        Kernel(ufunc, dtype=dtype)


def test_a_ufunc_with_more_inputs_than_can_be_passed():
    numba = pytest.importorskip("numba")
    names = [f"a{i}" for i in range(7)]
    add = eval(f"lambda {', '.join(names)}: {' + '.join(names)}")
    vectorized = numba.vectorize([f"f8({', '.join(['f8'] * 7)})"])(add)
    with pytest.raises(TypeError, match="7 inputs, at most 6"):
        Kernel(vectorized, dtype="f8")


def test_a_function_of_numba_vectorize():
    numba = pytest.importorskip("numba")
    add = Kernel(numba.vectorize(["f8(f8, f8)"])(lambda a, b: a + b), dtype="f8")
    assert add(1.0, 2.0) == 3.0
    assert add.map(np.arange(3.0), 1.0).tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(TypeError, match="no loop for float32"):
        Kernel(numba.vectorize(["f8(f8)"])(lambda a: a), dtype="f4")


def test_options_of_other_sources_are_refused(functions):
    with pytest.raises(TypeError, match="dtype='f8' is only for a ufunc"):
        Kernel(functions, "half", dtype="f8")
    with pytest.raises(TypeError, match=r"signature=.* is not for a ufunc"):
        Kernel(np.sqrt, dtype="f8", signature="double (double)")


class Forgetful(Kernel):
    def __init__(self):
        pass


class Failing(Kernel):
    def __init__(self):
        with pytest.raises(TypeError, match="type 'D'"):
            super().__init__(np.sqrt, dtype="c16")


@pytest.mark.parametrize(
    "make", [lambda: Kernel.__new__(Kernel), Forgetful, Failing], ids=str
)
def test_a_kernel_without_a_function_is_refused(make):
    kernel = make()
    for call in (
        kernel,
        kernel.map,
        lambda: Parallel(2, prefer="threads")([delayed(kernel)()] * 3),
    ):
        with pytest.raises(TypeError, match="has no function"):
            call()
    repr(kernel)


@pytest.mark.parametrize("source", [len, lambda x: x, 3.0, object()])
def test_other_sources_are_refused(source):
    with pytest.raises(TypeError, match="cannot be made of"):
        Kernel(source)


# ---- pickling ------------------------------------------------------------------


def test_kernels_travel_by_name(kernel):
    copy = pickle.loads(pickle.dumps(kernel("fail_raise", errors="exception")))
    assert copy.errors == "exception"
    with pytest.raises(ValueError, match="item 13"):
        copy(13)
    sqrt = pickle.loads(pickle.dumps(Kernel(np.sqrt, dtype="f8")))
    assert sqrt(4.0) == 2.0


def test_kernels_without_a_name_do_not_travel(functions):
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Kernel(functions.__pyx_capi__["half"]))


def test_arrays_made_before_numpy_was_needed(tmp_path, functions):
    """A kernel that is made before NumPy is imported takes its arrays as well."""
    program = f"""
import sys
sys.path.insert(0, {str(Path(functions.__file__).parent)!r})
from cypar import Kernel
kernel = Kernel("kernel_functions", "row_sum")
assert "numpy" not in sys.modules
import numpy
assert kernel(numpy.ones(3), 3) == 3.0
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
