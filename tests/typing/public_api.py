"""What type checkers must make of the public API. Checked by mypy, never run."""

from __future__ import annotations

from math import modf, sqrt
from typing import TYPE_CHECKING

from cypar import Parallel, cpu_count, delayed, effective_n_jobs, parallel_config

if TYPE_CHECKING:
    from typing_extensions import assert_type


def loop_returns_a_list_of_results() -> None:
    roots = Parallel(n_jobs=2)(delayed(sqrt)(i**2) for i in range(10))
    assert_type(roots, list[float])


def results_may_be_tuples() -> None:
    pairs = Parallel()(delayed(modf)(i / 2) for i in range(10))
    assert_type(pairs, list[tuple[float, float]])


def results_may_be_streamed() -> None:
    roots = Parallel(return_as="generator")(delayed(sqrt)(i) for i in range(10))
    assert_type(next(roots), float)
    roots.close()


def annotations_need_no_parameters(parallel: Parallel) -> list[int]:
    return parallel(delayed(len)(word) for word in ["a", "bc"])


def pool_is_reused_in_a_with_block() -> None:
    with Parallel(n_jobs=2, prefer="threads") as parallel:
        assert_type(parallel(delayed(len)("abc") for _ in range(3)), list[int])


def context_sets_defaults() -> None:
    with parallel_config(backend="threading", n_jobs=2):
        Parallel()(delayed(abs)(-i) for i in range(3))


def counts_are_integers() -> None:
    assert_type(cpu_count(), int)
    assert_type(cpu_count(only_physical_cores=True), int)
    assert_type(effective_n_jobs(-1), int)


def wrong_arguments_are_found() -> None:
    delayed(sqrt)("four")  # type: ignore[arg-type]
    Parallel(n_job=2)  # type: ignore[call-overload]
