"""The leak check in conftest.py notices what it is there for."""

import textwrap
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")

LEAKS = {
    "thread": """
        import threading
        kept.append(threading.Thread(target=threading.Event().wait, daemon=True))
        kept[-1].start()
    """,
    "child process": """
        import subprocess, sys
        kept.append(subprocess.Popen([sys.executable, "-c", "input()"],
                                     stdin=subprocess.PIPE))
    """,
    "descriptor": """
        import os
        kept.append(os.open(os.devnull, os.O_RDONLY))
    """,
    "file": """
        import tempfile
        kept.append(tempfile.mkdtemp(prefix="cypar-"))
    """,
    "": """
        import threading
        thread = threading.Thread(target=int)
        thread.start()
    """,
}


@pytest.fixture
def run_test(run_python, tmp_path):
    """Return a function that runs a test body under the leak check, with its output."""

    def run(body):
        conftest = CONFTEST.read_text(encoding="utf-8")
        (tmp_path / "conftest.py").write_text(f"{conftest}\nSETTLE_S = 0.05\n")
        body = textwrap.indent(textwrap.dedent(body), "    ")
        (tmp_path / "test_it.py").write_text(f"kept = []\ndef test_it():\n{body}")
        pytest_args = ["-m", "pytest", "-p", "no:cacheprovider", "test_it.py"]
        environment = {"TMPDIR": str(tmp_path), "CYPAR_TEST_INSTALLED": None}
        return run_python(*pytest_args, env=environment, returncode=None).stdout

    return run


@pytest.mark.slow
@pytest.mark.parametrize("what", [what for what in LEAKS if what])
def test_leaks_fail_the_test(run_test, what):
    out = run_test(LEAKS[what])
    assert f"the test leaves behind: {what} " in out
    assert "1 passed, 1 error" in out


@pytest.mark.slow
def test_what_ends_by_itself_is_no_leak(run_test):
    assert "1 passed in" in run_test(LEAKS[""])


@pytest.mark.slow
def test_failed_test_is_not_judged_again(run_test):
    out = run_test(textwrap.dedent(LEAKS["descriptor"]) + "assert False\n")
    assert "1 failed in" in out
