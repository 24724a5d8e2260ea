"""Start: from a cold interpreter to the first results, and the cost of importing.

P1  fresh interpreter, import, two results from worker processes
P1M the same with a function of the script itself, which travels by value
P1N the same with numpy imported by the script and used in the tasks
P1I import of the library over a bare interpreter
"""

import textwrap

from fresh import lifetime, run_python
from harness import MILLISECONDS, Contender, Row, Unit, at_most

# Guarded: workers that are spawned run the script once more.
PRINT_TIME = """
    if __name__ == "__main__":
        import time
        print(time.monotonic(), flush=True)
"""

# What comes before the call, and the function called.
FUNCTIONS = {
    "P1": ("from math import sqrt as function", "range(2)"),
    "P1M": ("def function(x): return x + 1", "range(2)"),
    "P1N": ("import numpy\nfrom numpy import sum as function", "[numpy.ones(9)] * 2"),
}

PARALLEL = """
    from {library} import Parallel, delayed
    {function}
    if __name__ == "__main__":
        results = Parallel(n_jobs=2{options})(delayed(function)(x) for x in {inputs})
"""
CF_POOL = """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context
    {function}
    if __name__ == "__main__":
        pool = ProcessPoolExecutor(2, mp_context=get_context("{method}"))
        results = list(pool.map(function, {inputs}))
"""
MP_POOL = """
    from multiprocessing import get_context
    {function}
    if __name__ == "__main__":
        pool = get_context("{method}").Pool(2)
        results = pool.map(function, {inputs}, chunksize=1)
"""
LOKY = """
    from joblib.externals.loky import get_reusable_executor
    {function}
    if __name__ == "__main__":
        results = list(get_reusable_executor(2).map(function, {inputs}))
"""
# One interpreter that starts two more and waits for both.
THREE_PYTHONS = """
    import subprocess, sys
    {function}
    command = [sys.executable, "-c", {code!r}]
    processes = [subprocess.Popen(command) for _ in range(2)]
    for process in processes:
        process.wait()
"""


def bench_p1_cold_start(measure, tmp_path):
    """A builtin function: no cloudpickle, only the pool's own start."""
    must = [
        at_most(0.33, of="joblib"),
        at_most(0.33, of="joblib", figure="cpu_ms"),
    ]
    aim = [at_most(2.1, of="python + 2 pythons")]
    measure(cold_row("P1", "cold start to 2 results", tmp_path, must, aim))


def bench_p1m_function_of_the_script(measure, tmp_path):
    """A function of __main__: what most scripts do."""
    title = "cold start, function of the script"
    measure(cold_row("P1M", title, tmp_path, [at_most(0.33, of="joblib")], []))


def bench_p1n_with_numpy(measure, tmp_path):
    """numpy in the parent and in the workers; its import dominates."""
    aim = [
        at_most(1.05, of="python + 2 pythons"),
        at_most(0.5, of="joblib", figure="cpu_ms"),
    ]
    measure(cold_row("P1N", "cold start with numpy", tmp_path, [], aim))


def cold_row(key, title, folder, must, aim):
    function, inputs = FUNCTIONS[key]
    numpy = "import numpy" if key == "P1N" else "pass"

    def contender(name, role, template, **fields):
        text = textwrap.dedent(template).format(
            function=function, inputs=inputs, code=numpy, **fields
        )
        file = folder / f"start_{name.replace(' ', '_')}.py"
        file.write_text(text + textwrap.dedent(PRINT_TIME), encoding="utf-8")
        return lifetime(name, role, file)

    return Row(
        key,
        title,
        MILLISECONDS,
        [
            contender("cypar", "cypar", PARALLEL, library="cypar", options=""),
            contender("joblib-loky", "joblib", PARALLEL, library="joblib", options=""),
            contender("cf.ProcessPool fork", "peer", CF_POOL, method="fork"),
            contender("cf.ProcessPool spawn", "peer", CF_POOL, method="spawn"),
            contender("mp.Pool fork", "peer", MP_POOL, method="fork"),
            contender("mp.Pool spawn", "peer", MP_POOL, method="spawn"),
            contender("loky.map", "peer", LOKY),
            contender("python + 2 pythons", "limit", THREE_PYTHONS),
        ],
        must=must,
        aim=aim,
        rounds=9,
        warm_up=False,
    )


def bench_p1i_import(measure):
    """Wall time of ``from <library> import Parallel, delayed``, start to end."""
    extra = Unit("ms over bare", lambda seconds, plain: (seconds - plain) * 1e3)

    def imports(name, role, library):
        code = f"from {library} import Parallel, delayed"
        return Contender.simple(name, role, lambda: run_python("-c", code))

    row = Row(
        "P1I",
        "import over a bare interpreter",
        extra,
        [
            imports("cypar", "cypar", "cypar"),
            imports("joblib", "joblib", "joblib"),
            Contender.simple(
                "concurrent.futures",
                "peer",
                lambda: run_python(
                    "-c", "from concurrent.futures import ProcessPoolExecutor"
                ),
            ),
            Contender.simple("bare python", "plain", lambda: run_python("-c", "pass")),
        ],
        aim=[at_most(15)],
        rounds=25,
    )
    measure(row)
