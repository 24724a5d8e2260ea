"""`python -m cypar`: the demo and the report about this machine."""

import re

import pytest

import cypar
from cypar.cli import demo, info


@pytest.fixture
def sources(tmp_path):
    """A folder with three files that parse, and one that does not."""
    folder = tmp_path / "sources"
    for name in ("package", "site-packages", "__pycache__"):
        (folder / name).mkdir(parents=True)
        (folder / name / "module.py").write_text("def f(x):\n    return x + 1\n")
    (folder / "large.py").write_text("x = 1\n" * 1000)
    (folder / "empty.py").write_text("")
    (folder / "broken.py").write_text("def f(:\n")
    (folder / "notes.txt").write_text("no source")
    return folder


# ---- demo ---------------------------------------------------------------------


@pytest.mark.slow
def test_demo_reports_files_times_and_speedups(run_python, sources):
    out = run_python("-m", "cypar", "demo", sources, "--n-jobs", 2).stdout
    assert "4 files" in out
    assert "largest: large.py (6 kB)" in out
    assert "1 files do not parse" in out
    assert len(re.findall(r"plain loop +\d+\.\d\d s\n", out)) == 2
    assert len(re.findall(r"Parallel\(.*\) +\d+\.\d\d s +\d+\.\d\dx\n", out)) == 2
    assert "DIFFER" not in out


def test_demo_reads_the_standard_library_by_default(run_python):
    out = run_python("-m", "cypar", "demo", "--help").stdout
    assert "default: the standard library" in " ".join(out.split())


def test_demo_without_files_says_so(run_python, tmp_path):
    out = run_python("-m", "cypar", "demo", tmp_path, returncode=1).stdout
    assert "no .py file" in out


def test_sources_leave_out_installed_packages_and_caches(sources):
    found = {path.removeprefix(f"{sources}/") for path in demo.find_sources(sources)}
    assert found == {"broken.py", "empty.py", "large.py", "package/module.py"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"x = 1\n", 5),  # Module, Assign, Name, Store, Constant
        (b"", 1),
        (b"def f(:\n", None),
        (b"# coding: no-such-encoding\n", None),
        (b"x = '\\d'\n", 5),  # an invalid escape warns
    ],
    ids=["assignment", "empty", "syntax error", "unknown encoding", "warning"],
)
def test_nodes_are_counted(tmp_path, content, expected):
    path = tmp_path / "module.py"
    path.write_bytes(content)
    assert demo.count_nodes(path) == expected


def test_fingerprint_depends_on_content_only(tmp_path):
    digests = []
    for name, content in [("a", b"one"), ("b", b"one"), ("c", b"two")]:
        (tmp_path / name).write_bytes(content)
        digests.append(demo.fingerprint(tmp_path / name))
    assert digests[0] == digests[1] != digests[2]


def test_different_results_are_reported(capsys):
    assert not demo.agree([1, 2, 3], [1, 5, 3])
    assert "1 of 3 files" in capsys.readouterr().out


# ---- info ---------------------------------------------------------------------


def test_info_describes_the_machine(run_python):
    out = run_python("-m", "cypar", "info", env={"CYPAR_MAX_CPU_COUNT": "1"}).stdout
    assert f"cypar {cypar.__version__}" in out
    assert re.search(r"^CPUs +1 usable", out, re.MULTILINE)
    assert "environment (CYPAR_MAX_CPU_COUNT): 1  <- the limit" in out
    assert re.search(r"^backends .*processes.*threading", out, re.MULTILINE)
    assert re.search(r"^start methods .*spawn", out, re.MULTILINE)
    assert re.search(r"^temp folder .* GB free$", out, re.MULTILINE)


def test_temp_folder_order_is_variables_then_memory_then_system(monkeypatch):
    monkeypatch.setenv("CYPAR_TEMP_FOLDER", "/first")
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", "/second")
    assert info.find_temp_folder()[1] == "/first"
    monkeypatch.delenv("CYPAR_TEMP_FOLDER")
    assert info.find_temp_folder()[1] == "/second"
    monkeypatch.delenv("JOBLIB_TEMP_FOLDER")
    monkeypatch.setattr("os.path.isdir", lambda path: True)
    monkeypatch.setattr("os.access", lambda path, mode: True)
    assert info.find_temp_folder()[1] == "/dev/shm"
    monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setattr("tempfile.tempdir", "/third")
    assert info.find_temp_folder()[1] == "/third"


def test_unusable_temp_folder_is_reported(monkeypatch):
    monkeypatch.setenv("CYPAR_TEMP_FOLDER", "/no/such/folder")
    assert info.describe_temp_folder() == [
        "/no/such/folder (from CYPAR_TEMP_FOLDER), unusable: No such file or directory"
    ]


# ---- the command itself -------------------------------------------------------


def test_no_command_prints_usage(run_python):
    done = run_python("-m", "cypar", returncode=2)
    assert "usage: python -m cypar" in done.stderr
