"""cypar.h: the loops of cypar.nogil from C."""

import pytest


@pytest.fixture(scope="session")
def c_module(compile_native):
    """The module native/c_module.c."""
    return compile_native("c_module.c")


@pytest.mark.parametrize("n", [1, 1000, 1_000_000])
def test_a_loop_and_a_reduction(c_module, n):
    assert c_module.fill_and_sum(n) == n * (n - 1) / 2


def test_an_exception_reaches_the_caller(c_module):
    with pytest.raises(KeyError, match="item 0"):
        c_module.raise_item()
