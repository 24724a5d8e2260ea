"""The examples in docstrings run, those of compiled modules included."""

import doctest
import importlib
import pkgutil

import pytest

import cypar

# These run something when they are imported.
NOT_MODULES = {"cypar.__main__"}

MODULES = sorted(
    name
    for _, name, _ in pkgutil.walk_packages(cypar.__path__, "cypar.")
    if name not in NOT_MODULES
)


def test_modules_are_found():
    assert "cypar.core.cpu" in MODULES
    assert "cypar.core._task_queue" in MODULES


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] == "cypar":
            raise
        pytest.skip(f"needs the optional package {error.name}")
    # As if typed by a user: functions defined in examples are not this module's.
    globs = {**vars(module), "__name__": "__main__"}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    for example in doctest.DocTestFinder().find(module, name, globs=globs):
        runner.run(example)
    assert runner.failures == 0
