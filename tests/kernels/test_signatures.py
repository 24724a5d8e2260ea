"""core.signatures: C signatures as Cython, scipy and people write them."""

import pytest

from cypar.core.signatures import class_of, parse


def codes(text):
    signature = parse(text)
    return [
        ("*" if t.is_pointer else "") + ("const " if t.is_const else "") + t.code
        for t in [signature.result, *signature.arguments]
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("double (double const *, int64_t)", ["d", "*const d", "q"]),
        ("double (const double *x, long n)", ["d", "*const d", "q"]),
        ("void (void)", ["v"]),
        ("void ()", ["v"]),
        ("double(double)", ["d", "d"]),
        ("double f(double x)", ["d", "d"]),
        ("double (*)(double, int)", ["d", "d", "i"]),
        ("unsigned int (unsigned)", ["I", "I"]),
        ("float (float *, unsigned char)", ["f", "*f", "B"]),
        ("long long int (unsigned long long int)", ["q", "Q"]),
        ("int16_t (uint16_t, int8_t, uint8_t)", ["h", "H", "b", "B"]),
        ("Py_ssize_t (size_t)", ["q", "Q"]),
        ("void (void *, char *, bool *)", ["v", "*v", "*c", "*?"]),
        ("double (__pyx_t_double_complex const *)", ["d", "*const D"]),
        ("npy_float64 (npy_intp, npy_int32)", ["d", "q", "i"]),
        (
            "__pyx_t_5numpy_float64_t (__pyx_t_5numpy_int32_t *)",
            ["d", "*i"],
        ),
        ("double (__pyx_t_5outer_5inner_size_t)", ["d", "Q"]),
        ("double ( const  double*restrict x )", ["d", "*const d"]),
        ("long unsigned (int unsigned)", ["Q", "I"]),
        ("long unsigned int (unsigned long int n)", ["Q", "Q"]),
        ("int long long unsigned (long int x, char unsigned)", ["Q", "q", "B"]),
        ("short unsigned int (int short signed, unsigned foo)", ["H", "h", "I"]),
        ("void (float _Complex *z, complex double *)", ["v", "*F", "*D"]),
    ],
)
def test_types(text, expected):
    assert codes(text) == expected


def test_a_cpdef_function_has_an_argument_more():
    signature = parse("double (double, int __pyx_skip_dispatch)")
    assert signature.skips_dispatch
    assert [t.code for t in signature.arguments] == ["d"]


def test_argument_names_are_kept():
    assert [t.name for t in parse("int (const double *x, int n)").arguments] == [
        "x",
        "n",
    ]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("double (double, PyObject *)", "argument 1 .*Python object"),
        ("double (__Pyx_memviewslice)", "argument 0 .*memoryview"),
        ("double (double **)", r"argument 0 .*double \*\*"),
        ("void (double *, double (*)(double))", "argument 1 "),
        ("double (struct point)", "argument 0 .*point"),
        ("double (__pyx_t_5mymod_real)", "argument 0 .*real"),
        ("double (double, int, struct __pyx_opt_args_f *)", "argument 2 .*optional"),
        ("double * (double)", "the result "),
        ("double complex (double)", "the result "),
        ("double (double complex)", "argument 0 "),
        ("double (char)", "argument 0 "),
        ("double (bool)", "argument 0 "),
        ("double (long double)", "argument 0 .*long double"),
        ("double (long double *)", "argument 0 .*long double"),
        ("long double (double)", "the result .*long double"),
        ("double (double long)", "argument 0 .*double long"),
        ("double (float _Complex)", "argument 0 .*float _Complex"),
        ("double (int, double &)", "argument 1 .*double &"),
        ("double (double &x)", "argument 0 .*double &x"),
        ("double (double *&x)", "argument 0 "),
        ("double (double *&)", "argument 0 "),
        ("double (double x[3])", "argument 0 "),
        ("double (double, ...)", "argument 1 "),
        ("double (int x long)", "argument 0 "),
        ("double (int64_t unsigned)", "argument 0 "),
        ("double (unsigned int64_t)", "argument 0 "),
        ("double (long float)", "argument 0 "),
        ("double (double 3)", "argument 0 "),
    ],
)
def test_an_unsupported_type_is_named(text, where):
    with pytest.raises(TypeError, match=where) as info:
        parse(text, "the kernel 'f'")
    assert "the kernel 'f'" in str(info.value)
    assert "ufunc" in str(info.value)  # the recipe


def test_too_many_arguments():
    with pytest.raises(TypeError, match="7 arguments, at most 6"):
        parse("double (" + ", ".join(["double"] * 7) + ")")


@pytest.mark.parametrize("text", ["", "double", "double (", "(double))("])
def test_what_is_no_signature(text):
    with pytest.raises((ValueError, TypeError)):
        parse(text)


def test_classes():
    signature = parse("float (int *, int64_t, double, int32_t, uint16_t)")
    assert "".join(map(class_of, signature.arguments)) == "wwdiH"
    assert class_of(signature.result) == "f"
