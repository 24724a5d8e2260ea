"""Importing cypar is cheap: what it needs is imported on first use."""

import re
from pathlib import Path

import pytest

import cypar

ROOT = Path(__file__).parents[1]

# What a program that only imports cypar must not pay for.
HEAVY = {
    "cloudpickle",
    "concurrent.futures",
    "dataclasses",
    "enum",
    "inspect",
    "logging",
    "multiprocessing",
    "numpy",
    "pickle",
    "re",
    "socket",
    "subprocess",
    "tempfile",
    "threadpoolctl",
    "typing",
}

PROGRAM = """
import sys
before = set(sys.modules)  # an environment's .pth files import things of their own
{statement}
print(*sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize(
    "statement", ["import cypar", "from cypar import Parallel, delayed"]
)
def test_import_loads_nothing_heavy(run_script, statement):
    modules = set(run_script(PROGRAM.format(statement=statement)).stdout.split())
    assert "cypar" in modules
    assert not modules & HEAVY


def test_parallel_without_workers_loads_nothing_heavy(run_script):
    """Row S9: n_jobs=1 uses no parallel code at all."""
    statement = """
from cypar import Parallel, delayed
assert Parallel(n_jobs=1)(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
"""
    modules = set(run_script(PROGRAM.format(statement=statement)).stdout.split())
    assert not modules & {"cloudpickle", "multiprocessing", "numpy"}


def test_every_public_name_can_be_imported():
    for name in cypar.__all__:
        assert getattr(cypar, name) is not None


def test_every_public_name_has_a_type_stub():
    """The stub repeats the names that __init__ resolves at run time."""
    stub = (ROOT / "cypar" / "__init__.pyi").read_text(encoding="utf-8")
    assert set(re.findall(r"\bas (\w+)", stub)) == set(cypar.__all__)


def test_every_public_name_is_in_the_reference_page():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\.\. auto\w+:: (\w+)$", page, re.MULTILINE))
    assert documented == set(cypar.__all__) - {"BACKENDS", "DEFAULT_BACKEND"}
