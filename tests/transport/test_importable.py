"""transport/importable: what a worker finds under a name."""

import sys

import pytest

from cypar.transport import importable
from cypar.transport.serialize import dumps, loads


def test_answers_follow_sys_path(user_module, monkeypatch):
    module = user_module("on_path", "def f():\n    return 1\n")
    importable.refresh()
    assert importable.worker_can_import("on_path")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.endswith("code")])
    importable.refresh()
    assert not importable.worker_can_import("on_path")
    assert loads(dumps(module.f)) is not module.f


def test_another_file_of_that_name_does_not_count(user_module, tmp_path, monkeypatch):
    user_module("two_files", "x = 1")
    other = tmp_path / "other"
    other.mkdir()
    (other / "two_files.py").write_text("x = 2")
    monkeypatch.syspath_prepend(str(other))
    importable.refresh()
    assert not importable.worker_can_import("two_files")


@pytest.mark.parametrize(
    "name",
    ["os.path", "collections.abc", "importlib._bootstrap", "json", "numpy.linalg"],
)
def test_libraries_are_importable(name):
    importable.refresh()
    assert importable.worker_can_import(name)


def test_working_directory_does_not_shadow_the_library(run_python, tmp_path):
    (tmp_path / "fractions.py").write_text("def f():\n    return 'mine'\n")
    program = (
        "import fractions, pickle; from cypar.transport.serialize import dumps\n"
        "data = dumps(fractions.f); del fractions.f; print(pickle.loads(data)())"
    )
    assert run_python("-c", program).stdout.strip() == "mine"
    assert importable.worker_path(["", "a"]) == ["a", ""]
    assert importable.worker_path(["a", "b"]) == ["a", "b"]


def test_editable_installs_are_importable(tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    site.mkdir()
    source = tmp_path / "src" / "edited_package.py"
    source.parent.mkdir()
    source.write_text("x = 1")
    (site / "edited_finder.py").write_text(
        "from importlib.util import spec_from_file_location\n"
        "class Finder:\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        "        if name == 'edited_package':\n"
        f"            return spec_from_file_location(name, {str(source)!r})\n"
    )
    monkeypatch.syspath_prepend(str(site))
    finder = __import__("edited_finder").Finder
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, finder])
    __import__("edited_package")
    try:
        importable.refresh()
        assert importable.worker_can_import("edited_package")
    finally:
        del sys.modules["edited_package"], sys.modules["edited_finder"]
