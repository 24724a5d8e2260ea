"""Compile the Cython modules of these tests, once per session."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cypar

NATIVE = Path(__file__).parent / "native"

BUILD = """
import sys
from Cython.Build import cythonize
from setuptools import Extension, setup

import cypar

name, source = sys.argv.pop(1), sys.argv.pop(1)
extension = Extension(name, [source])
if source.endswith(".c"):
    extension.include_dirs.append(cypar.get_include())
setup(name=name, ext_modules=cythonize([extension], build_dir="c", quiet=True))
"""


def pytest_collection_modifyitems(items):
    """Let the compiler have its time: the limit is for what is tested."""
    for item in items:
        if "compile_native" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(60, func_only=True))


@pytest.fixture(scope="session")
def compile_native(tmp_path_factory):
    """Return a function that compiles native/<file> and imports the module."""
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("native")

    def compile_module(file):
        name = file.partition(".")[0]
        if name not in sys.modules:
            build(name, file, folder)
            (library,) = folder.glob(f"{name}.*.so")
            spec = importlib.util.spec_from_file_location(name, library)
            sys.modules[name] = module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        return sys.modules[name]

    return compile_module


def build(name, file, folder):
    script = folder / "build.py"
    script.write_text(BUILD, encoding="utf-8")
    for needed in (file, "native_tools.pxd"):
        (folder / needed).write_bytes((NATIVE / needed).read_bytes())
    done = subprocess.run(
        [sys.executable, script, name, file, "-q", "build_ext", "--inplace"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(cypar.__file__).parents[1])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="session")
def bodies(compile_native):
    """The module native/engine_bodies.pyx."""
    return compile_native("engine_bodies.pyx")


@pytest.fixture(scope="session")
def groups(compile_native):
    """The module native/group_bodies.pyx."""
    return compile_native("group_bodies.pyx")


@pytest.fixture(scope="session")
def functions(compile_native):
    """The module native/kernel_functions.pyx."""
    return compile_native("kernel_functions.pyx")


@pytest.fixture
def kernel(functions):
    """Return a function that makes a Kernel of a function of that module."""
    from cypar import Kernel

    def make(name, **options):
        return Kernel(functions, name, **options)

    return make
