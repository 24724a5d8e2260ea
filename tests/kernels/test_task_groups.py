"""cypar.nogil.TaskGroup and parallel_reduce."""

import array
import math
import threading

import numpy as np
import pytest

# ---- groups ------------------------------------------------------------------------


@pytest.mark.parametrize("gil", [True, False])
@pytest.mark.parametrize("n_jobs", [1, 2, 4, -1])
@pytest.mark.parametrize("n", [0, 1, 2, 100, 5000])  # 5000: more than the ring holds
def test_every_task_runs_once(groups, n, n_jobs, gil):
    assert groups.run_group(n, n_jobs, 20, gil=gil) == n


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_an_exception_that_the_result_does_not_tell_of_is_raised(groups, n_jobs):
    for _ in range(20):
        with pytest.raises(ValueError, match="hidden"):
            groups.run_hiding(50, n_jobs)


def test_tasks_run_at_the_same_time(groups):
    for _ in range(5):
        assert groups.meet_in_group(4, 4) == 4


@pytest.mark.parametrize("n_jobs", [1, 2, 3])
@pytest.mark.parametrize("depth", [0, 1, 5, 13])  # 13: 16383 tasks
def test_tasks_spawn_tasks(groups, depth, n_jobs):
    assert groups.run_tree(depth, n_jobs) == 2 ** (depth + 1) - 1


def test_a_group_can_be_used_again(groups):
    group = groups.make_group(2)
    for n in (10, 0, 3000):
        assert groups.run_group(n, group=group) == n


def fail():
    raise ValueError("from the task")


def test_a_failure_reaches_the_wait(groups):
    for _ in range(20):
        exc, n_ran = groups.run_group(200, 3, 100, fail)
        assert str(exc) == "from the task"
        assert n_ran < 200


def test_a_group_works_after_a_failure(groups):
    group = groups.make_group(2)
    exc, _ = groups.run_group(50, function=fail, group=group)
    assert isinstance(exc, ValueError)
    assert groups.run_group(50, group=group) == 50


def test_the_first_spawned_failure_wins(groups):
    """With one worker, tasks run in the order they were spawned."""
    with pytest.raises(ValueError, match="first"):
        groups.fail_tasks(["first", "second", "third"], 1)


def test_a_group_let_go_drops_or_ends_its_tasks(groups):
    total = array.array("q", [0])
    for _ in range(20):
        groups.leave_group(300, 3, total)
    assert 0 <= total[0] <= 6000


def test_tasks_of_a_group_let_go_may_use_python(groups):
    total = array.array("q", [0])
    groups.leave_group(50, 3, total, lambda: None)


def test_a_task_cannot_wait_for_its_own_group(groups):
    with pytest.raises(RuntimeError, match="cannot wait for its own group"):
        groups.wait_inside(2)


def test_groups_inside_of_loops(groups):
    assert groups.groups_in_loop(40, 3) == 40


def test_groups_from_many_threads(groups):
    results = []

    def work():
        results.extend(groups.run_group(300, 3, 50) for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [300] * 50


# ---- reductions ----------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [1, 2, 5])
@pytest.mark.parametrize("n", [0, 1, 1000, 300_000])
def test_a_sum(groups, n, n_jobs):
    x = np.random.default_rng(0).random(n)
    assert math.isclose(groups.sum_doubles(x, n_jobs), x.sum(), rel_tol=1e-12)


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_whole_numbers_are_exact(groups, n_jobs):
    assert groups.count_items(1_000_000, n_jobs) == 1_000_000


def test_a_failure_in_a_reduction(groups):
    with pytest.raises(KeyError, match="777"):
        groups.count_items(1_000_000, 2, 777)
