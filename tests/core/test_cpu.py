"""cpu: the number of usable CPUs, and the n_jobs formulas."""

import math
import os

import pytest

from cypar.core import cpu

needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this platform"
)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Eight CPUs without any limit; quota files go under the folder returned."""
    for name in cpu.ENVIRONMENT_LIMITS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(cpu, "_affinity", lambda: set(range(8)))
    monkeypatch.setattr(cpu, "_CGROUP_ROOT", str(tmp_path))
    monkeypatch.setattr(cpu, "_PROC_CGROUP", str(tmp_path / "self"))
    monkeypatch.setattr(cpu, "_CPU_TOPOLOGY", str(tmp_path / "topology"))
    monkeypatch.setattr(cpu, "_core_of_cpu", {})
    monkeypatch.setattr(cpu, "_machine", (0, None, 0.0))
    return tmp_path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


# ---- usable CPUs --------------------------------------------------------------


def test_without_limits_all_cpus_count(machine):
    assert cpu.cpu_count() == 8


def test_unknown_machine_counts_as_one_cpu(machine, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpu.cpu_count() == 1


def test_affinity_limits(machine, monkeypatch):
    monkeypatch.setattr(cpu, "_affinity", lambda: {1, 5, 6})
    assert cpu.cpu_count() == 3


def test_unknown_affinity_is_no_limit(machine, monkeypatch):
    monkeypatch.setattr(cpu, "_affinity", lambda: None)
    assert cpu.cpu_count() == 8


@needs_affinity
def test_a_changed_affinity_counts_at_once(monkeypatch):
    for name in cpu.ENVIRONMENT_LIMITS:
        monkeypatch.delenv(name, raising=False)
    allowed = os.sched_getaffinity(0)
    cpu.cpu_count()
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cpu.cpu_count() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("cpu_max", "expected"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("150000 100000", 2),  # rounded up
        ("10000 100000", 1),
        ("6400000 100000", 8),  # more than the machine has
        ("nonsense", 8),
    ],
)
def test_cgroup_v2_quota_limits(machine, cpu_max, expected):
    write(machine / "self", "0::/job/step")
    write(machine / "job/step/cpu.max", cpu_max)
    assert cpu.cpu_count() == expected


def test_quota_of_an_outer_group_limits(machine):
    write(machine / "self", "0::/job/step")
    write(machine / "job/cpu.max", "300000 100000")
    write(machine / "job/step/cpu.max", "500000 100000")
    assert cpu.cpu_count() == 3


def test_quota_is_found_in_a_container_that_sees_the_host_path(machine):
    write(machine / "self", "0::/system.slice/docker-abc.scope")
    write(machine / "cpu.max", "400000 100000")
    assert cpu.cpu_count() == 4


def test_cgroup_v2_beside_v1_is_read(machine):
    write(machine / "self", "4:memory:/\n0::/job")
    write(machine / "unified/job/cpu.max", "500000 100000")
    assert cpu.cpu_count() == 5


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(
    ("quota_us", "expected"), [("-1", 8), ("250000", 3), ("600000", 6)]
)
def test_cgroup_v1_quota_limits(machine, mount, quota_us, expected):
    write(machine / "self", "9:memory:/other\n4:cpu,cpuacct:/docker/abc")
    write(machine / mount / "docker/abc/cpu.cfs_quota_us", quota_us)
    write(machine / mount / "docker/abc/cpu.cfs_period_us", "100000")
    assert cpu.cpu_count() == expected


def test_quota_is_read_again_after_a_while(machine, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(cpu, "monotonic", lambda: now[0])
    write(machine / "self", "0::/")
    write(machine / "cpu.max", "200000 100000")
    assert cpu.cpu_count() == 2
    write(machine / "cpu.max", "300000 100000")
    now[0] += cpu.REREAD_AFTER_S / 2
    assert cpu.cpu_count() == 2
    now[0] += cpu.REREAD_AFTER_S
    assert cpu.cpu_count() == 3


@pytest.mark.parametrize("name", cpu.ENVIRONMENT_LIMITS)
@pytest.mark.parametrize(
    ("text", "expected"), [("3", 3), ("", 8), ("0", 1), ("-4", 1), ("99", 8)]
)
def test_environment_limits(machine, monkeypatch, name, text, expected):
    monkeypatch.setenv(name, text)
    assert cpu.cpu_count() == expected


def test_cypar_variable_wins_over_loky(machine, monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    monkeypatch.setenv("CYPAR_MAX_CPU_COUNT", "5")
    assert cpu.cpu_count() == 5


def test_bad_environment_variable_is_named(machine, monkeypatch):
    monkeypatch.setenv("CYPAR_MAX_CPU_COUNT", "four")
    with pytest.raises(ValueError, match=r"CYPAR_MAX_CPU_COUNT is 'four'"):
        cpu.cpu_count()


@pytest.mark.parametrize("file", ["core_cpus_list", "thread_siblings_list"])
def test_hyper_threads_of_one_core_count_once(machine, file):
    for number in range(8):
        siblings = f"{number % 4},{number % 4 + 4}"
        write(machine / f"topology/cpu{number}/topology/{file}", siblings)
    assert cpu.cpu_count(only_physical_cores=True) == 4
    assert cpu.cpu_count() == 8


def test_physical_cores_are_those_of_the_affinity_mask(machine, monkeypatch):
    monkeypatch.setattr(cpu, "_affinity", lambda: {0, 1, 2})
    for number in range(8):
        siblings = f"{number // 2 * 2}-{number // 2 * 2 + 1}"
        write(machine / f"topology/cpu{number}/topology/core_cpus_list", siblings)
    assert cpu.cpu_count(only_physical_cores=True) == 2


def test_unknown_topology_counts_logical_cpus(machine):
    assert cpu.cpu_count(only_physical_cores=True) == 8


def test_explanation_names_every_limit(machine, monkeypatch):
    write(machine / "self", "0::/")
    write(machine / "cpu.max", "600000 100000")
    monkeypatch.setattr(cpu, "_affinity", lambda: set(range(7)))
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "5")
    assert cpu.explain_cpu_count() == [
        ("machine", 8),
        ("affinity", 7),
        ("cgroup quota", 6),
        ("environment (LOKY_MAX_CPU_COUNT)", 5),
    ]


# ---- n_jobs (rows S8 to S12) --------------------------------------------------


@pytest.mark.parametrize(
    ("n_jobs", "expected"),
    [
        (None, 1),  # S8
        (1, 1),  # S9
        (-1, 8),  # S10
        (-2, 7),  # S11
        (-8, 1),
        (-1000, 1),
        (3, 3),  # S12
        (100, 100),
        (2.9, 2),
        (-1.5, 8),
        ("4", 4),
        ("-2", 7),
    ],
)
def test_s8_to_s12_n_jobs_formulas(machine, n_jobs, expected):
    assert cpu.effective_n_jobs(n_jobs) == expected


def test_numpy_integers_are_integers(machine):
    numpy = pytest.importorskip("numpy")
    assert cpu.effective_n_jobs(numpy.int64(3)) == 3


@pytest.mark.parametrize("n_jobs", [0, 0.7, -0.2, "0"])
def test_s12_zero_jobs_is_refused(machine, n_jobs):
    with pytest.raises(ValueError, match="zero jobs can do no work"):
        cpu.effective_n_jobs(n_jobs)


@pytest.mark.parametrize("n_jobs", ["two", "", "2.5", math.nan, math.inf])
def test_s12_no_integer_is_refused(machine, n_jobs):
    with pytest.raises(ValueError, match="n_jobs must be an integer or None"):
        cpu.effective_n_jobs(n_jobs)


@pytest.mark.parametrize("n_jobs", [True, False, [2], object(), 2j])
def test_s12_other_types_are_refused(machine, n_jobs):
    with pytest.raises(TypeError, match="n_jobs must be an integer or None"):
        cpu.effective_n_jobs(n_jobs)
