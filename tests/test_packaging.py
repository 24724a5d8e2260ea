"""What is shipped: the sdist builds by itself, the wheel has what users need.

One build serves all tests here: the wheel is made from the sdist.
"""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import cypar

ROOT = Path(__file__).parents[1]
NOT_SOURCE = ("build", "dist", ".*", "*.egg-info", "*.so", "__pycache__")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BUILD_SDIST = "from setuptools import build_meta as b; b.build_sdist({folder!r})"


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The folder with the sdist and the wheel, built from a copy of the sources."""
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path_factory.mktemp("source") / "cypar"
    folder = tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    run("-c", BUILD_SDIST.format(folder=str(folder)), cwd=source)
    (sdist,) = folder.glob("*.tar.gz")
    # Nothing is downloaded: the environment of the tests has what the build needs.
    pip_wheel = ["-m", "pip", "wheel", "--no-index", "--no-build-isolation"]
    run(*pip_wheel, "--no-deps", "-w", folder, sdist, cwd=folder)
    return folder


def run(*args, cwd):
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def wheel_files(dist):
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.fixture(scope="module")
def sdist_names(dist):
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        return {name.partition("/")[2] for name in file.getnames()}


def sources(*patterns):
    """Return the paths under cypar/ that match, relative to the repository."""
    return {
        str(path.relative_to(ROOT))
        for pattern in patterns
        for path in (ROOT / "cypar").rglob(pattern)
    }


def test_wheel_has_every_compiled_module(wheel_files):
    compiled = {
        name.partition(".")[0] for name in wheel_files if name.endswith((".so", ".pyd"))
    }
    assert compiled == {name.removesuffix(".pyx") for name in sources("*.pyx")}


def test_wheel_has_modules_declarations_and_stubs(wheel_files):
    expected = sources("*.py", "*.pxd", "*.pyi", "py.typed", "_port.h", "cypar.h")
    assert expected <= set(wheel_files)


def test_wheel_has_nothing_else(wheel_files):
    allowed = re.compile(
        r"cypar/(.*\.(py|pyi|pxd|so|pyd)|py\.typed|core/_port\.h|include/cypar\.h)"
        r"|cypar-[^/]*\.dist-info/.*"
    )
    assert {name for name in wheel_files if not allowed.fullmatch(name)} == set()


def test_wheel_requires_exactly_the_documented_packages(wheel_files):
    metadata = metadata_of(wheel_files)
    required = re.findall(
        r"^Requires-Dist: ([\w-]+)(?![^\n]*extra ==)", metadata, re.MULTILINE
    )
    assert sorted(required) == ["cloudpickle", "numpy", "threadpoolctl"]


def test_version_is_the_same_everywhere(wheel_files):
    version = re.search(r"^Version: (.+)$", metadata_of(wheel_files), re.MULTILINE)[1]
    assert version == cypar.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {version}" in changelog


def metadata_of(wheel_files):
    (name,) = (name for name in wheel_files if name.endswith(".dist-info/METADATA"))
    return wheel_files[name].decode()


def test_sdist_has_sources_tests_and_documents(sdist_names):
    expected = sources("*.py", "*.pyx", "*.pxd", "*.pyi", "*.h", "py.typed")
    expected |= {"setup.py", "pyproject.toml", "Makefile", "LICENSE", "README.md"}
    expected |= {"tests/conftest.py", "CHANGELOG.md", "CONTRIBUTING.md"}
    assert expected <= sdist_names


def test_sdist_has_nothing_that_was_built(sdist_names):
    built = re.compile(r".*\.(so|pyd|c|pyc)|build/.*")
    assert {name for name in sdist_names if built.fullmatch(name)} == set()
