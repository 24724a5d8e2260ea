"""delayed(ufunc)(arrays) in Parallel: NumPy's own results, in chunks, no GIL."""

import gc
import pickle
import threading
import warnings
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cypar import Parallel, delayed
from cypar.core._array_loops import forget_flags
from cypar.core._ufunc_tasks import can_run, n_run
from cypar.core.ufunc_loops import LETTERS, loop_for, numpy_ufuncs, sample

UFUNCS = sorted(
    (f for f in numpy_ufuncs() if f.nout == 1 and f.signature is None and f.types),
    key=lambda f: f.__name__,
)
N = 600  # items of an array; NumPy keeps the GIL for 500

# Have no loop of one type for all inputs, or none for numbers.
LEFT_OUT = {"isnat", "ldexp"}

pytestmark = pytest.mark.skipif(
    not hasattr(np.sqrt, "resolve_dtypes"), reason="NumPy does not tell its loops"
)


@pytest.fixture(autouse=True)
def without_flags():
    """What one test leaves to NumPy is tried again in the next."""
    yield
    forget_flags()


@pytest.fixture
def threads():
    return Parallel(n_jobs=2, prefer="threads")


@pytest.fixture
def x():
    return np.random.default_rng(1).random(N)


def numbers(dtype, n, seed):
    """Any numbers, also those that are no results of any calculation."""
    rng = np.random.default_rng(seed)
    if dtype.kind == "b":
        return rng.random(n) < 0.5
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        some = rng.integers(info.min, info.max, n, dtype, endpoint=True)
        return np.where(rng.random(n) < 0.5, some, some % 7).astype(dtype)
    special = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 5e-324, 1e308]
    with np.errstate(all="ignore"):
        some = np.where(rng.random(n) < 0.2, rng.choice(special, n), rng.normal(size=n))
        return (some + 1j * rng.normal(size=n) if dtype.kind == "c" else some).astype(
            dtype
        )


def harmless(ufunc, dtype):
    """Numbers that the function is defined for."""
    x = np.arange(N) % 37 + 1
    if dtype.kind not in "fc":
        return x.astype(dtype)
    return (x / 39 + (ufunc is np.arccosh)).astype(dtype)


def same(a, b):
    """Whether arrays are equal to the bit."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def calls_of(ufunc, make):
    """Return (calls, expected results): one call for each dtype that it takes."""
    calls, expected = [], []
    for letter in LETTERS:
        inputs = [make(np.dtype(letter), k) for k in range(ufunc.nin)]
        try:
            expected.append(ufunc(*inputs))
        except (TypeError, ValueError):
            continue
        calls.append(delayed(ufunc)(*inputs))
    return calls, expected


# ---- results -------------------------------------------------------------------


@pytest.mark.parametrize("ufunc", UFUNCS, ids=lambda f: f.__name__)
def test_same_bits_as_numpy(ufunc, threads):
    """For all dtypes; with special values, where flags are set and NumPy repeats it."""
    with np.errstate(all="ignore"):
        makers = {
            "no flags": lambda dtype, k: harmless(ufunc, dtype),
            "any numbers": lambda dtype, k: numbers(dtype, N, k),
        }
        for special, make in makers.items():
            calls, expected = calls_of(ufunc, make)
            can = sum(can_run(function, *args) for function, args, _ in calls)
            before = n_run()
            results = threads(calls)
            assert all(map(same, results, expected))
            assert n_run() <= before + can
            if special == "no flags" and can:
                assert n_run() > before
            for result in results:
                result[...] = 0
            outs = [
                (function, args, {"out": result})
                for (function, args, _), result in zip(calls, results, strict=True)
            ]
            again = threads(outs)
            assert all(a is b for a, b in zip(again, results, strict=True))
            assert all(map(same, results, expected))


@pytest.mark.parametrize("ufunc", UFUNCS, ids=lambda f: f.__name__)
def test_what_has_a_loop_is_run(ufunc):
    run = []
    for letter in LETTERS:
        if f"{letter * ufunc.nin}->" in " ".join(ufunc.types):
            x = np.resize(sample(np.dtype(letter)), N)
            run.append(can_run(ufunc, *[x] * ufunc.nin))
    assert all(run)
    assert bool(run) == (ufunc.__name__ not in LEFT_OUT)


@given(
    st.sampled_from(["f4", "f8", "i8", "?"]),
    st.lists(st.integers(0, 3), max_size=2),
    st.sampled_from(["new", "positional", "named", "in place", "overlapping"]),
    st.sampled_from([slice(None), slice(None, None, 2), slice(None, None, -1)]),
    st.booleans(),
)
def test_any_call_is_that_of_numpy(code, shape, out, cut, scalar):
    rng = np.random.default_rng(3)
    room = rng.integers(0, 50, (2, *shape, 1200)).astype(code)

    def call(room):
        a, b = room[0][..., cut], room[1][..., cut]
        if scalar:
            b = room.dtype.type(3)
        keywords = {}
        args = (a, b)
        if out == "positional":
            args = (a, b, np.zeros(a.shape, a.dtype))
        elif out == "named":
            keywords = {"out": np.zeros(a.shape, a.dtype)}
        elif out == "in place":
            keywords = {"out": a}
        elif out == "overlapping":
            a = room.ravel()[: room.size - 1]
            args, keywords = (a, a), {"out": room.ravel()[1:]}
        return np.add, args, keywords

    ours, theirs = room.copy(), room.copy()
    function, args, keywords = call(theirs)
    expected = function(*args, **keywords)
    (result,) = Parallel(2, prefer="threads")([call(ours)])
    assert type(result) is type(expected)
    assert np.array_equal(result, expected)
    assert np.array_equal(ours, theirs)


def test_many_with_other_tasks(threads, x):
    def calls():
        for i in range(1000):
            yield delayed(np.exp)(x)
            yield delayed(abs)(-i)
            yield delayed(np.negative)(x)
            yield delayed(max)(i, 2)

    results = threads(calls())
    for result, (function, args, _) in zip(results, calls(), strict=True):
        assert np.array_equal(result, function(*args))


@pytest.mark.parametrize("n_jobs", [1, 2, 4])
@pytest.mark.parametrize("batch_size", ["auto", 1, 7])
@pytest.mark.parametrize("pre_dispatch", ["2 * n_jobs", "all", 3])
def test_whatever_the_batches(n_jobs, batch_size, pre_dispatch):
    rows = np.random.default_rng(2).random((700, N))
    parallel = Parallel(
        n_jobs, prefer="threads", batch_size=batch_size, pre_dispatch=pre_dispatch
    )
    results = parallel(delayed(np.sqrt)(row) for row in rows)
    assert np.array_equal(results, np.sqrt(rows))


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_generators(return_as):
    rows = np.random.default_rng(2).random((700, N))
    parallel = Parallel(2, prefer="threads", return_as=return_as)
    results = list(parallel(delayed(np.sqrt)(row) for row in rows))
    if return_as != "generator":
        results.sort(key=lambda row: row[0])
        rows = sorted(rows, key=lambda row: row[0])
    assert np.array_equal(results, np.sqrt(rows))


def test_with_progress_and_timeout(x, capfd):
    for options in ({"verbose": 60}, {"timeout": 20}):
        results = Parallel(2, prefer="threads", **options)(
            delayed(np.sqrt)(x) for _ in range(50)
        )
        assert np.array_equal(results, [np.sqrt(x)] * 50)
    assert "50 out of  50" in "".join(capfd.readouterr())


# ---- what NumPy has to do itself -------------------------------------------------


class Subclass(np.ndarray):
    pass


def read_only(x):
    y = x.copy()
    y.flags.writeable = False
    return y


def with_metadata(x):
    return x.astype(np.dtype("f8", metadata={"unit": "m"}))


LEFT_TO_NUMPY = {
    "a list": lambda x: ((x.tolist(),), {}),
    "a number": lambda x: ((2.0,), {}),
    "no dimension": lambda x: ((x[0:1].reshape(()),), {}),
    "few items": lambda x: ((x[:500],), {}),
    "long doubles": lambda x: ((x.astype("g"),), {}),
    "no item": lambda x: ((x[:0],), {}),
    "too many items": lambda x: ((np.ones(40_000),), {}),
    "too many items, with out": lambda x: ((np.ones(40_000), np.ones(40_000)), {}),
    "a subclass": lambda x: ((x.view(Subclass),), {}),
    "a masked array": lambda x: ((np.ma.masked_array(x, x < 0.5),), {}),
    "integers": lambda x: ((x.astype("i4"),), {}),
    "the other byte order": lambda x: ((x.astype(x.dtype.newbyteorder()),), {}),
    "a dtype with metadata": lambda x: ((with_metadata(x),), {}),
    "strides": lambda x: ((x[::2],), {}),
    "misaligned": lambda x: ((np.frombuffer(b"\0" + x.tobytes(), "f8", offset=1),), {}),
    "out of another dtype": lambda x: ((x, np.zeros(x.shape, "c16")), {}),
    "out that broadcasts": lambda x: ((x, np.zeros((2, *x.shape))), {}),
    "out with strides": lambda x: ((x, np.zeros((*x.shape, 2))[:, 0]), {}),
    "out is a tuple": lambda x: ((x,), {"out": (np.zeros_like(x),)}),
    "in place": lambda x: ((x, x), {}),
    "a mask": lambda x: ((x, np.zeros_like(x)), {"where": x > 0.5}),
    "a dtype": lambda x: ((x,), {"dtype": "f4"}),
    "a mask beside out": lambda x: ((x,), {"out": np.zeros_like(x), "where": x > 0.5}),
}


@pytest.mark.parametrize("case", LEFT_TO_NUMPY)
def test_left_to_numpy(case, threads, x):
    args, keywords = LEFT_TO_NUMPY[case](x.copy())
    assert not can_run(np.sqrt, *args, **keywords)
    results = threads([(np.sqrt, args, keywords)])
    args, keywords = LEFT_TO_NUMPY[case](x.copy())
    expected = np.sqrt(*args, **keywords)
    assert type(results[0]) is type(expected)
    assert np.array_equal(results[0], expected)


@pytest.mark.parametrize(
    ("args", "keywords", "error"),
    [
        ((), {}, TypeError),
        ((np.ones(3), np.ones(3), np.ones(3)), {}, TypeError),
        ((np.ones(3), read_only(np.ones(3))), {}, ValueError),
        ((np.ones(3), np.ones(4)), {}, ValueError),
        ((np.ones(3), np.ones(3, "i4")), {}, TypeError),
        ((np.ones(3), np.ones(3)), {"out": np.ones(3)}, TypeError),
        ((np.ones(3),), {"ouch": np.ones(3)}, TypeError),
        ((np.array([object()]),), {}, TypeError),
    ],
)
def test_wrong_calls_raise_what_numpy_raises(args, keywords, error, threads):
    with pytest.raises(error) as expected:
        np.sqrt(*args, **keywords)
    with pytest.raises(error) as info:
        threads([(np.sqrt, args, keywords)])
    assert str(info.value) == str(expected.value)
    assert info.value.task_index == 0


def test_ufuncs_that_are_not_of_numpy(threads, x):
    own = np.frompyfunc(lambda a: a + 1, 1, 1)
    assert not can_run(own, x)
    assert threads([delayed(own)(x)])[0].tolist() == (x + 1).tolist()
    assert not can_run(np.vectorize(abs), x)


def test_a_deprecated_way_to_call_still_warns(threads, x):
    """NumPy 2.4 wants ``out`` by its name, where a third input might be meant."""
    assert not can_run(np.maximum, x, x, np.zeros_like(x))
    assert can_run(np.maximum, x, x, out=np.zeros_like(x))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        np.maximum(x, x, np.zeros_like(x))
        n_expected = 5 * len(caught)
        caught.clear()
        threads(delayed(np.maximum)(x, x, np.zeros_like(x)) for _ in range(5))
        assert len(caught) == n_expected


def test_writes_that_numpy_warns_of(threads, x):
    def out():
        return np.broadcast_arrays(np.zeros(N), np.zeros((1, N)))[0]

    calls = [delayed(np.sqrt)(x.reshape(1, N), out()) for _ in range(5)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        np.sqrt(x.reshape(1, N), out())
        n_expected = 5 * len(caught)
        caught.clear()
        threads(calls)
        assert len(caught) == n_expected


def test_loops_that_numpy_does_not_use_are_not_used():
    assert loop_for(np.sqrt, np.dtype("i8")) is None  # it converts them first
    assert loop_for(np.modf, np.dtype("f8")) is None
    assert loop_for(np.matmul, np.dtype("f8")) is None
    assert loop_for(np.isnat, np.dtype("f8")) is None
    assert loop_for(np.power, np.dtype("M8[s]")) is None


# ---- floating-point flags ---------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_warnings_and_errors_as_errstate_says(n_jobs, x):
    parallel = Parallel(n_jobs, prefer="threads")
    bad = x.copy()
    bad[77] = -1.0
    calls = [delayed(np.sqrt)(bad if i == 5 else x) for i in range(10)]
    with np.errstate(invalid="ignore"):
        expected = [function(*args) for function, args, _ in calls]
        assert np.array_equal(parallel(calls), expected, equal_nan=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert np.array_equal(parallel(calls), expected, equal_nan=True)
    assert [str(w.message) for w in caught] == ["invalid value encountered in sqrt"]
    with np.errstate(invalid="raise"), pytest.raises(FloatingPointError) as info:
        parallel(calls)
    assert info.value.task_index == 5
    seen = []
    with np.errstate(invalid="call", call=lambda *args: seen.append(args)):
        parallel(calls)
    assert len(seen) == 1
    kept = Parallel(n_jobs, prefer="threads", on_error="return")
    with np.errstate(invalid="raise"):
        results = kept(calls)
    assert isinstance(results[5].exception, FloatingPointError)
    assert np.array_equal(results[6], expected[6])


@pytest.mark.parametrize(
    ("ufunc", "args", "flag"),
    [
        (np.divide, (1.0, 0.0), "divide"),
        (np.floor_divide, (1, 0), "divide"),
        (np.multiply, (1e300, 1e300), "over"),
        (np.multiply, (1e-300, 1e-300), "under"),
        (np.log, (-1.0,), "invalid"),
    ],
)
def test_all_flags(ufunc, args, flag, threads):
    arrays = [np.full(N, value) for value in args]
    assert can_run(ufunc, *arrays)
    with np.errstate(all="ignore", **{flag: "raise"}):
        with pytest.raises(FloatingPointError):
            threads([delayed(ufunc)(*arrays)])
        # flags of one task are not those of the next
        fine = [delayed(np.add)(np.ones(N), np.ones(N))] * 20
        assert np.array_equal(threads(fine), np.full((20, N), 2.0))


def test_an_exception_inside_a_loop(threads):
    two, powers = np.full(N, 2), np.full(N, -1)
    for _ in range(3):
        with pytest.raises(ValueError, match="negative integer powers") as info:
            threads(
                delayed(np.power)(two, powers if i == 30 else two) for i in range(60)
            )
        assert info.value.task_index == 30
        assert np.array_equal(threads([delayed(np.power)(two, two)])[0], two * two)


@pytest.mark.parametrize("every", [2, 10, 50])
def test_when_some_have_flags(threads, x, every):
    calls = [delayed(np.sqrt)(-x if i % every == 7 % every else x) for i in range(3000)]
    before = n_run()
    with np.errstate(all="ignore"):
        results = threads(calls)
        expected = {True: np.sqrt(x), False: np.sqrt(-x)}
    for result, (_, args, _) in zip(results, calls, strict=True):
        assert same(result, expected[args[0] is x])
    if every == 50:  # with more of them, it does not pay
        assert n_run() > before + 100


def test_when_all_have_flags(threads, x):
    """NumPy does nearly all of them, and gets no new ones after a while."""
    y = -x
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = threads(delayed(np.sqrt)(y) for _ in range(500))
    assert np.isnan(results).all()
    assert len(caught) == 500
    assert not can_run(np.sqrt, x)
    for _ in range(50):
        results = threads(delayed(np.sqrt)(x) for _ in range(100))
    assert np.array_equal(results, [np.sqrt(x)] * 100)
    assert can_run(np.sqrt, x)


# ---- between draw and run ----------------------------------------------------------


def test_arrays_are_looked_at_when_the_task_runs():
    """All are drawn before the first one runs."""
    x = np.ones((4, N // 4))
    y, out = np.ones(N), np.zeros(N)

    def calls():
        yield delayed(np.negative)(x)
        yield delayed(np.negative)(y)
        yield delayed(np.negative)(y, out)
        x.resize((N,), refcheck=False)
        y.resize(3, refcheck=False)

    results = Parallel(2, prefer="threads", on_error="return")(calls())
    assert results[0].shape == (N,)
    assert results[1].tolist() == [-1.0] * 3
    assert isinstance(results[2].exception, ValueError)


def test_arrays_that_change_while_others_run(run_script):
    """Each stretch without the GIL begins with a look at what it will touch."""
    run_script(
        """
        import weakref
        import numpy as np
        from cypar import Parallel, delayed
        from cypar.core._ufunc_tasks import n_run

        threads = Parallel(2, prefer="threads", on_error="return", pre_dispatch="all")
        two, powers = np.full(600, 2), np.full(600, -1)
        for _ in range(20):  # how long they take is known then
            threads(delayed(np.power)(two, two) for _ in range(50))
            threads(delayed(np.negative)(np.ones(600)) for _ in range(50))
        arrays = [np.ones(600) for _ in range(40)]

        def shrink():
            for array in arrays:
                array.resize(3, refcheck=False)

        def calls():
            x = np.ones(600)
            weakref.finalize(x, shrink)
            yield delayed(np.negative)(x)  # in a chunk with the next ones
            del x
            yield delayed(np.power)(two, powers)  # an exception ends the stretch
            for array in arrays:
                yield delayed(np.negative)(array)

        before = n_run()
        results = threads(calls())
        del results[1]
        assert n_run() > before
        assert {result.shape for result in results} <= {(600,), (3,)}
        assert all((result == -1).all() for result in results)
        """,
        env={"PYTHONMALLOC": "debug"},
    )


def test_arrays_that_were_unpickled(threads, x):
    """NumPy makes them a dtype of their own."""
    y = pickle.loads(pickle.dumps(x))
    assert can_run(np.sqrt, y)
    assert can_run(np.add, x, y, out=pickle.loads(pickle.dumps(x)))
    results = threads(delayed(np.sqrt)(y) for _ in range(50))
    assert all(same(result, np.sqrt(x)) for result in results)


def test_an_array_that_becomes_read_only(threads, x):
    out = np.zeros(N)

    def calls():
        yield delayed(np.negative)(x, out)
        out.flags.writeable = False

    with pytest.raises(ValueError, match="read-only"):
        threads(calls())
    assert not out.any()


@pytest.mark.parametrize("n", [1, 4, 40])
def test_no_more_are_drawn_than_pre_dispatch(n):
    """Of inputs that nobody else keeps, ``n`` are alive, and the one that is drawn."""
    alive = set()
    most = 0

    def calls():
        nonlocal most
        for i in range(1000):
            x = np.ones(N)
            weakref.finalize(x, alive.discard, i)
            alive.add(i)
            most = max(most, len(alive))
            yield delayed(np.sqrt)(x)

    Parallel(2, prefer="threads", pre_dispatch=n)(calls())
    assert most <= n + 1


def test_with_a_timeout_numpy_does_all(x):
    """What it does after the loop may take too long."""
    late = threading.Event()
    parallel = Parallel(2, prefer="threads", timeout=0.1)
    before = n_run()
    with (
        np.errstate(invalid="call", call=lambda *args: late.wait(20)),
        pytest.raises(TimeoutError),
    ):
        parallel([delayed(np.sqrt)(-x)])
    late.set()
    assert n_run() == before


def test_nothing_waits_for_the_code_that_numpy_calls(x):
    """A task that is done again comes last; what may be any code is not claimed."""
    next_has_run = threading.Event()
    tell = np.frompyfunc(lambda a: next_has_run.set(), 1, 1)
    waited = []

    def wait(*args):
        waited.append(next_has_run.wait(20))

    def calls():
        for _ in range(200):
            yield delayed(np.sqrt)(x)
        yield delayed(np.sqrt)(-x)
        yield delayed(np.sqrt)(x)
        yield delayed(tell)(1.0)

    with np.errstate(invalid="call", call=wait):
        Parallel(2, prefer="threads")(calls())
    assert waited == [True]


# ---- memory, threads, versions -----------------------------------------------------


def test_nothing_is_kept_alive(threads, until):
    x, out = np.ones(N), np.zeros(N)
    references = weakref.ref(x), weakref.ref(out)
    bad = -x
    with np.errstate(all="ignore"):
        threads(delayed(np.sqrt)(bad if i % 50 == 0 else x, out) for i in range(500))
        threads(delayed(np.sqrt)(x, out=out) for i in range(500))
    with np.errstate(all="raise"), pytest.raises(FloatingPointError) as info:
        threads(delayed(np.sqrt)(bad if i == 9 else x, out) for i in range(500))
    del x, out, bad, info

    def is_all_gone():
        gc.collect()
        return references[0]() is references[1]() is None

    # after the error the worker lets go of what it had claimed
    until(is_all_gone)


def test_two_workers_meet_a_loop_for_the_first_time(run_script):
    """Both look for it, and both go on using it."""
    run_script(
        """
        import threading
        import numpy as np
        from cypar import Parallel, delayed
        from cypar.core import _array_loops, _ufunc_tasks

        found, real = threading.Barrier(2), _array_loops.loop_for

        def slow(ufunc, dtype):
            loop = real(ufunc, dtype)
            found.wait(20)
            return loop

        _array_loops.loop_for = slow
        x = np.random.default_rng(1).random(30_000)
        threads = Parallel(2, prefer="threads")
        results = threads(delayed(np.sin)(x) for _ in range(200))
        assert all(np.array_equal(result, np.sin(x)) for result in results)
        assert _ufunc_tasks.n_run() > 100
        """,
        env={"PYTHONMALLOC": "debug"},
    )


def test_two_threads_learn_of_numpy_at_once(run_script):
    run_script(
        """
        import threading
        import numpy as np
        from cypar import Parallel, delayed
        from cypar.core import _array_loops, _ufunc_tasks

        both, real = threading.Barrier(2), _array_loops.numpy_ufuncs

        def slow():
            both.wait(20)
            return real()

        _array_loops.numpy_ufuncs = slow
        x = np.random.default_rng(1).random(30_000)

        def run():
            results = Parallel(2, prefer="threads")(
                delayed(np.sin)(x) for _ in range(200)
            )
            assert all(np.array_equal(result, np.sin(x)) for result in results)
            done.append(1)

        done = []
        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert done == [1, 1]
        assert _ufunc_tasks.n_run() > 100
        """,
        env={"PYTHONMALLOC": "debug"},
    )


def test_python_without_ctypes(run_script):
    run_script(
        """
        import sys
        sys.modules["_ctypes"] = None
        import numpy as np
        from cypar import Parallel, delayed

        threads = Parallel(2, prefer="threads")
        assert threads([delayed(abs)(-1)]) == [1]
        assert threads([delayed(np.sqrt)(np.ones(600))])[0].sum() == 600
        """
    )


def test_ufuncs_as_tasks_of_a_program_that_has_numpy_late(run_script):
    run_script(
        """
        import sys
        from cypar import Parallel, delayed

        threads = Parallel(2, prefer="threads")
        assert threads(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
        assert "numpy" not in sys.modules

        import numpy as np

        x = np.ones(600)
        sums = threads(delayed(np.add)(x, x) for _ in range(3))
        assert [s.tolist() for s in sums] == [[2.0] * 600] * 3
        from cypar.core._ufunc_tasks import can_run

        assert can_run(np.add, np.ones(600), np.ones(600))
        """
    )


def test_numpy_that_is_half_imported(run_script):
    """As while another thread imports it: its ufuncs are tasks like any others."""
    run_script(
        """
        import sys, types
        from cypar import Parallel, delayed

        sys.modules["numpy"] = types.ModuleType("numpy")
        threads = Parallel(2, prefer="threads")
        assert threads(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
        del sys.modules["numpy"]
        import numpy as np
        from cypar.core._ufunc_tasks import can_run

        assert can_run(np.add, np.ones(600), np.ones(600))
        """
    )


def test_numpy_that_calls_other_loops(run_script):
    """A loop that does not give what the ufunc gives is not used."""
    run_script(
        """
        import numpy as np
        from cypar.core import _array_loops, _ufunc_tasks, ufunc_loops

        def another(ufunc, dtype):
            return (*ufunc_loops.loop_at(np.cbrt, 2), dtype)

        def broken(ufunc, dtype):
            raise OverflowError

        x = np.linspace(0, 1, 600)
        for fake, ufunc in ((another, np.sqrt), (broken, np.exp)):
            _array_loops.loop_for = fake
            assert not _ufunc_tasks.can_run(ufunc, x)
        """
    )
