"""The layers core <- transport <- backends <- api <- cli, read from the imports."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.py", "*.pyx", "*.pxd")
    for path in (ROOT / "cypar").rglob(pattern)
)

LAYERS = ("core", "transport", "backends", "api", "cli")

# May be imported inside a function: optional packages, and modules of the standard
# library that would make `import cypar` slow.
LAZY = {
    "bz2",
    "cloudpickle",
    "concurrent.futures",
    "cypar.core._ufunc_tasks",  # of no use without numpy
    "cypar.transport.by_value",  # imports cloudpickle
    "cypar.core.traceback_text",  # needed only after a failure, like the next two
    "cypar.transport.captures",  # imports dis
    "cypar.transport.failures",  # imports culprit and exceptions, after a failure only
    "cypar.transport.culprit",
    "cypar.transport.summary",
    "cypar.transport.exceptions",
    "ctypes",
    "dask",
    "dataclasses",
    "distributed",
    "doctest",
    "faulthandler",
    "gzip",
    "inspect",
    "joblib",
    "linecache",
    "logging",
    "loky",
    "lzma",
    "multiprocessing",
    "numpy",
    "pickle",
    "ray",
    "re",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "threadpoolctl",
    "tqdm",
    "traceback",
    "typing",
}

IMPORT_LINE = re.compile(
    r"^(?P<indent>\s*)(?:from\s+(?P<origin>[\w.]+)\s+c?import\s+(?P<names>[(\w., *]+)"
    r"|c?import\s+(?P<modules>[\w., ]+))"
)
STRINGS = re.compile(r'""".*?"""' + r"|'''.*?'''", re.DOTALL)


def layer_of(module):
    """Return the rank in LAYERS of a dotted module name below cypar."""
    parts = module.split(".")
    if parts[1:2] == ["__main__"]:
        return LAYERS.index("cli")
    room = parts[1] if len(parts) > 1 else "api"
    return LAYERS.index(room if room in LAYERS else "api")


def module_name(path):
    """Return the dotted name of the module in a source file."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path):
    """Return [(imported name, inside a function, line number)] of a source file.

    ``from a import b`` counts as importing ``a.b``.
    """
    text = (ROOT / path).read_text(encoding="utf-8")
    return list(scan_python(text) if path.suffix == ".py" else scan_cython(text))


def scan_python(text):
    tree = ast.parse(text)
    inside = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, node in inside, node.lineno


def scan_cython(text):
    text = STRINGS.sub(lambda match: "\n" * match[0].count("\n"), text)
    for number, line in enumerate(text.splitlines(), 1):
        match = IMPORT_LINE.match(line)
        if match is None:
            continue
        origin, names = match["origin"], match["names"] or match["modules"]
        for name in names.split(",") if origin is None else [origin]:
            yield name.split()[0].strip(), bool(match["indent"]), number


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_a_module_imports_only_from_its_own_and_lower_layers(path):
    own = layer_of(module_name(path))
    wrong = [
        f"line {line}: {name} is in {LAYERS[layer_of(name)]}"
        for name, _, line in imports_of(path)
        if name.partition(".")[0] == "cypar" and layer_of(name) > own
    ]
    assert not wrong, f"{path} is in {LAYERS[own]}"


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_are_absolute(path):
    relative = [name for name, _, _ in imports_of(path) if name.startswith(".")]
    assert not relative


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_inside_functions_are_optional_or_lazy_ones(path):
    wrong = [
        f"line {line}: {name}"
        for name, inside_function, line in imports_of(path)
        if inside_function and not is_lazy(name)
    ]
    assert not wrong, path


def is_lazy(name):
    parts = name.split(".")
    return any(".".join(parts[:n]) in LAZY for n in range(1, len(parts) + 1))


def test_worker_process_needs_core_and_transport_only(run_python):
    """A worker starts fast: nothing of the API is imported with it."""
    program = "import sys, cypar.backends.pool.worker; print(*sys.modules)"
    modules = set(run_python("-c", program).stdout.split())
    ours = {name for name in modules if name.startswith("cypar.")}
    allowed = re.compile(r"cypar\.(core|transport|backends)\b")
    assert {name for name in ours if not allowed.match(name)} == set()
    assert not modules & {"numpy", "multiprocessing"}


# ---- the scanner itself -------------------------------------------------------


def test_scanner_reads_python():
    text = "import a.b, c\nfrom d import e, f\ndef g():\n    from .h import i\n"
    assert sorted(scan_python(text)) == [
        (".h.i", True, 4),
        ("a.b", False, 1),
        ("c", False, 1),
        ("d.e", False, 2),
        ("d.f", False, 2),
    ]


def test_scanner_reads_cython():
    text = (
        '"""Text.\n\nfrom here import nothing\n"""\n'
        "cimport cython\n"
        "import os, sys as system\n"
        "from cypar.core._port cimport (\n    one,\n)\n"
        "def f():\n    import numpy as np\n"
    )
    assert list(scan_cython(text)) == [
        ("cython", False, 5),
        ("os", False, 6),
        ("sys", False, 6),
        ("cypar.core._port", False, 7),
        ("numpy", True, 11),
    ]
