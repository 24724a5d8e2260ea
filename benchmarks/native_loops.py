"""Compile native/loops.pyx, with OpenMP if the compiler has it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from fresh import environment

SOURCE = Path(__file__).parent / "native" / "loops.pyx"
SETUP = """
import sys
from Cython.Build import cythonize
from setuptools import Extension, setup

flags = sys.argv.pop(1).split()
extension = Extension(
    "loops", ["loops.pyx"], extra_compile_args=["-O3", *flags], extra_link_args=flags
)
setup(name="loops", ext_modules=cythonize([extension], quiet=True))
"""


@cache
def folder():
    """Return the folder of the compiled module; it is deleted at exit."""
    made = tempfile.TemporaryDirectory(prefix="cypar-benchmarks-")
    folder.keep = made
    path = Path(made.name)
    (path / "build.py").write_text(SETUP, encoding="utf-8")
    (path / "loops.pyx").write_bytes(SOURCE.read_bytes())
    output = ""
    for flags in ("-fopenmp", " "):
        done = subprocess.run(
            [sys.executable, "build.py", flags, "-q", "build_ext", "--inplace"],
            cwd=path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode == 0:
            return path
        output += done.stdout
    raise RuntimeError(f"native/loops.pyx cannot be compiled:\n{output}")


@cache
def load():
    """Return the module."""
    (library,) = folder().glob("loops.*.so")
    spec = importlib.util.spec_from_file_location("loops", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["loops"] = module
    return module
