"""Functions of `__main__` in all its forms; a clean interpreter in each worker."""

import sys
from pathlib import Path

import pytest

import cypar

pytestmark = pytest.mark.slow

# No `if __name__ == "__main__"` guard anywhere.
PROGRAM = """
import os
from cypar import Parallel, delayed

FACTOR = 3

class Point:
    def __init__(self, x):
        self.x = x
    def __eq__(self, other):
        return type(self) is type(other) and self.x == other.x

def scale(x):
    return helper(x) * FACTOR, Point(x), os.getpid()

def helper(x):
    return x + 1

print("started")
out = Parallel(n_jobs=2)(delayed(scale)(i) for i in range(4))
assert [a for a, _, _ in out] == [3, 6, 9, 12], out
assert [b for _, b, _ in out] == [Point(i) for i in range(4)]
assert os.getpid() not in {c for _, _, c in out}
FACTOR = 5
assert Parallel(n_jobs=2)([delayed(scale)(1)])[0][0] == 10
print("done")
"""


def check(done):
    assert done.stdout.split() == ["started", "done"]  # once: no worker ran the file
    assert done.stderr == ""


def test_s18_script_without_a_guard(run_script):
    check(run_script(PROGRAM))


def test_s19_standard_input(run_python):
    check(run_python("-", input=PROGRAM))


def test_s19_command_line(run_python):
    check(run_python("-c", PROGRAM))


def test_s19_module(run_python, tmp_path):
    (tmp_path / "as_module.py").write_text(PROGRAM)
    check(run_python("-m", "as_module"))


def test_s19_package(run_python, tmp_path):
    package = tmp_path / "as_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "neighbour.py").write_text("def shift(x):\n    return x + 10\n")
    (package / "__main__.py").write_text(
        "from . import neighbour\n"
        "from cypar import Parallel, delayed\n"
        "def task(x):\n    return neighbour.shift(x)\n"
        "print(Parallel(n_jobs=2)(delayed(task)(i) for i in range(3)))\n"
        "print(Parallel(n_jobs=2)(delayed(neighbour.shift)(i) for i in range(3)))\n"
    )
    done = run_python("-m", "as_package")
    assert done.stdout == "[10, 11, 12]\n" * 2
    assert done.stderr == ""


def test_s18_module_beside_the_script(run_script, tmp_path):
    (tmp_path / "neighbour.py").write_text("def shift(x):\n    return x + 10\n")
    done = run_script(
        """
        from cypar import Parallel, delayed
        from neighbour import shift
        print(Parallel(n_jobs=2)(delayed(shift)(i) for i in range(3)))
        """
    )
    assert (done.stdout, done.stderr) == ("[10, 11, 12]\n", "")


SHADOWED = """
from cypar import Parallel, delayed
def task():
    import random, sys
    return random.__file__
print(*Parallel(n_jobs=2)(delayed(task)() for _ in range(2)))
"""


@pytest.mark.parametrize("name", ["random", "struct", "select", "pickle", "threading"])
@pytest.mark.parametrize("how", ["-c", "-m"])
def test_working_directory_shadows_nothing(run_python, tmp_path, name, how):
    """The parent runs with its directory first on the path, as Python does."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "program.py").write_text(
        # The parent itself has its directory first, so it loads the real ones before.
        f"import os, {name}\n"
        f"open(os.path.join({str(tmp_path)!r}, {name + '.py'!r}), 'w').write(\n"
        f"    'raise SystemExit(\"{name}.py of the user was imported\")')\n" + SHADOWED
    )
    if how == "-c":
        code = (tmp_path / "elsewhere" / "program.py").read_text()
        done = run_python("-c", code, returncode=None)
    else:
        (tmp_path / "program.py").write_text(
            (tmp_path / "elsewhere" / "program.py").read_text()
        )
        done = run_python("-m", "program", returncode=None)
    assert done.stderr == ""
    assert done.returncode == 0
    assert str(tmp_path) not in done.stdout


@pytest.mark.parametrize(
    ("flags", "expression", "expected"),
    [
        (["-O"], "sys.flags.optimize", "1"),
        (["-OO"], "sys.flags.optimize", "2"),
        (["-X", "dev"], "sys.flags.dev_mode", "True"),
        (["-W", "error"], "sys.warnoptions", "['error']"),
        (["-s"], "sys.flags.no_user_site", "1"),
        (["-B"], "sys.flags.dont_write_bytecode", "1"),
        (["-X", "utf8=0"], "sys.flags.utf8_mode", "0"),
        (["-X", "utf8"], "sys.flags.utf8_mode", "1"),
    ],
)
def test_flags_are_handed_on(run_python, flags, expression, expected):
    code = (
        "import sys\n"
        "from cypar import Parallel, delayed\n"
        f"def task(): return {expression}\n"
        "first, second = Parallel(n_jobs=2)(delayed(task)() for _ in range(2))\n"
        "assert first == second == task(), (first, second, task())\n"
        "print(first)\n"
    )
    done = run_python(*flags, "-c", code)
    assert done.stdout.strip() == expected
    assert done.stderr == ""


def test_isolated_mode(run_python):
    path = str(Path(cypar.__file__).parents[1])
    code = (
        f"import sys\nsys.path.append({path!r})\n"
        "from cypar import Parallel, delayed\n"
        "def task(): return sys.flags.isolated\n"
        "print(Parallel(n_jobs=2)(delayed(task)() for _ in range(2)))\n"
    )
    done = run_python("-I", "-c", code)
    assert (done.stdout, done.stderr) == ("[1, 1]\n", "")
    assert sys.flags.isolated == 0
