"""P34: worker processes that start worker processes; programs that start again."""

import pytest

pytestmark = pytest.mark.slow

LIMIT_S = 15


@pytest.mark.parametrize("variable", ["CYPAR_MAX_DEPTH", "LOKY_MAX_DEPTH"])
@pytest.mark.parametrize("beside", ["", "import multiprocessing"])
def test_p34_depth_is_limited_on_every_level(run_script, variable, beside):
    result = run_script(
        f"""
        {beside}
        from cypar import Parallel, delayed

        def bomb(depth):
            print(depth, flush=True)
            if depth < 6:
                Parallel(n_jobs=2, backend="processes")([delayed(bomb)(depth + 1)])

        try:
            bomb(0)
        except RuntimeError as error:
            print("ended:", error)
        """,
        env={variable: "3"},
        timeout_s=LIMIT_S,
    )
    depths = [int(line) for line in result.stdout.splitlines() if line.isdigit()]
    assert depths == [0, 1, 2, 3]
    assert "ended: worker processes are nested 4 levels deep" in result.stdout


def test_p34_changed_environment_does_not_change_the_depth(run_script):
    result = run_script(
        """
        import os
        from cypar import Parallel, delayed

        def depth():
            return os.environ["CYPAR_DEPTH"]

        def inner():
            os.environ["NEW_IN_THE_TASK"] = "1"
            parallel = Parallel(n_jobs=2, backend="processes")
            return depth(), parallel([delayed(depth)()])[0]

        parallel = Parallel(n_jobs=2, backend="processes")
        print(parallel([delayed(inner)()]))
        os.environ["NEW_HERE"] = "1"
        print(parallel([delayed(inner)()]))
        """,
        timeout_s=LIMIT_S,
    )
    assert result.stdout == "[('1', '2')]\n" * 2


def test_p34_module_that_runs_a_loop_while_it_is_imported(run_python, tmp_path):
    """Its functions go by name, and a worker that imports it would loop again."""
    (tmp_path / "loops_on_import.py").write_text(
        "from cypar import Parallel, delayed\n"
        "def double(x):\n"
        "    return 2 * x\n"
        "print('begin', flush=True)\n"
        "results = Parallel(n_jobs=2)(delayed(double)(i) for i in range(4))\n"
    )
    code = "import loops_on_import; print(loops_on_import.results)"
    result = run_python(
        "-c", code, env={"CYPAR_MAX_DEPTH": "2"}, timeout_s=LIMIT_S, returncode=None
    )
    assert result.stdout == "begin\n[0, 2, 4, 6]\n"
