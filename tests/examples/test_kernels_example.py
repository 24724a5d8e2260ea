"""examples/kernels: built, installed and run as a user would, without the network."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "kernels"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the example was installed into."""
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools", minversion="77")
    pytest.importorskip("pip")
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "target"))
    shutil.copytree(EXAMPLE, source, dirs_exist_ok=True)
    # Nothing is downloaded: the environment of the tests has what the build needs.
    run(
        *("-m", "pip", "install", "--no-build-isolation", "--no-index", "--no-deps"),
        *("--disable-pip-version-check", "--target", target, source),
        path=[],
    )
    return target


def run(*args, path):
    """Run Python with folders on its path, cypar's own one among them."""
    import cypar

    folders = [*path, Path(cypar.__file__).parents[1]]
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
        cwd=path[0] if path else None,  # not cypar's sources, which may not be built
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_all_ways_give_the_same_picture(installed):
    """The program itself compares them with a loop on one thread."""
    out = run("-m", "mandel", "--rows", "60", "--limit", "50", path=[installed])
    for way in ("Parallel", "Kernel.map", "parallel_for"):
        assert f"{way}, n_jobs=" in out
    assert "points inside: " in out


def test_the_readmes_examples_run(installed):
    run("-m", "doctest", EXAMPLE / "README.md", path=[installed])


def test_the_package_offers_its_functions_to_other_cython_code(installed):
    assert (installed / "mandel" / "escape.pxd").exists()
