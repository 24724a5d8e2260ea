"""No backend is left out but for a reason that stands in conftest's table."""

import re
from pathlib import Path

import pytest


@pytest.fixture
def table(request):
    plugin = request.config.pluginmanager
    own = str(Path(__file__).with_name("conftest.py"))
    return next(p for p in plugin.get_plugins() if getattr(p, "__file__", "") == own)


def test_every_skip_of_the_table_is_a_test(table):
    sources = "".join(p.read_text() for p in Path(__file__).parent.glob("test_*.py"))
    for name, reasons in table.SKIPS.items():
        assert f"def {name}(" in sources, name
        assert set(reasons) <= set(table.ALL), name
        assert all(reasons.values()), name


def test_no_test_skips_by_itself():
    pattern = re.compile(r"pytest\.(skip|importorskip|mark\.skip|mark\.xfail)\b")
    for path in Path(__file__).parent.glob("test_*.py"):
        if path.name != "test_skips.py":
            assert not pattern.search(path.read_text()), path.name


def test_what_is_collected_as_skipped_is_the_table(request, table):
    """Every mark comes from the table, and each entry of it leaves out one test."""
    items = [i for i in request.session.items if i.path.parent == Path(__file__).parent]
    files = {item.path.name for item in items}
    marked = {
        (item.originalname, table.engine_name(item))
        for item in items
        if any(item.iter_markers("skip"))
    }
    expected = {(name, e) for name, reasons in table.SKIPS.items() for e in reasons}
    if files >= {p.name for p in Path(__file__).parent.glob("test_*.py")}:
        assert marked == expected  # the whole suite was collected
    else:
        assert marked <= expected
