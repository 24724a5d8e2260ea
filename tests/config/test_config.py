"""parallel_config, parallel_backend and set_config: what holds where."""

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cypar import config
from cypar.config import (
    parallel_backend,
    parallel_config,
    set_config,
)
from cypar.core import config_state
from cypar.resolution import (
    MAX_NBYTES,
    MMAP_MODE,
    VERBOSE,
    resolve,
)

# ---- contexts ----------------------------------------------------------------------


def test_s60_parallel_backend_means_all_cpus():
    with parallel_backend("threading"):
        assert resolve().n_jobs == -1
        assert resolve(n_jobs=2).n_jobs == 2


def test_s60_parallel_backend_gives_backend_and_n_jobs():
    with parallel_backend("threading", n_jobs=3) as (backend, n_jobs):
        assert (backend.name, n_jobs) == ("ThreadBackend", 3)


def test_s61_blocks_nest_and_keep_what_they_do_not_set(backend_name):
    with parallel_config("threading", n_jobs=3):
        with parallel_config(verbose=5):
            call = resolve()
            assert (call.backend.name, call.n_jobs) == ("ThreadBackend", 3)
            assert call.verbose == 5
        with parallel_config("sequential"):
            assert backend_name() == "SequentialBackend"
            assert resolve().n_jobs == 3
        assert (backend_name(), resolve().verbose) == ("ThreadBackend", 0)
    assert (backend_name(), resolve().n_jobs) == ("ProcessBackend", 1)


def test_s61_settings_go_when_an_exception_leaves_the_block(backend_name):
    with pytest.raises(ZeroDivisionError), parallel_config("threading"):
        raise ZeroDivisionError
    assert backend_name() == "ProcessBackend"


def test_s61_settings_hold_from_construction(backend_name):
    setting = parallel_config("threading", n_jobs=2)
    assert (backend_name(), resolve().n_jobs) == ("ThreadBackend", 2)
    setting.unregister()
    setting.unregister()  # a second time does nothing
    assert backend_name() == "ProcessBackend"


def test_s61_plain_call_inside_a_block_ends_with_it(backend_name):
    with parallel_config("threading"):
        parallel_config("sequential")
        assert backend_name() == "SequentialBackend"
    assert backend_name() == "ProcessBackend"


def test_s61_plain_call_before_a_block_outlives_it(backend_name):
    setting = parallel_config("threading", n_jobs=2)
    with parallel_config(n_jobs=4):
        assert (backend_name(), resolve().n_jobs) == ("ThreadBackend", 4)
    assert (backend_name(), resolve().n_jobs) == ("ThreadBackend", 2)
    setting.unregister()


@pytest.mark.parametrize("enter", [False, True], ids=["plain call", "with block"])
def test_s61_other_threads_do_not_see_it(backend_name, in_new_thread, enter):
    setting = parallel_config("threading")
    if enter:
        setting.__enter__()
    # an executor's thread starts from an empty Context, unlike free-threaded 3.14's
    context = contextvars.Context()
    try:
        name = in_new_thread(lambda: context.run(backend_name))
    finally:
        setting.unregister()
    assert name == "ProcessBackend"


def test_s61_block_can_be_entered_again(backend_name):
    setting = parallel_config("threading")
    for _ in range(2):
        with setting:
            assert backend_name() == "ThreadBackend"
        assert backend_name() == "ProcessBackend"


def test_notebook_cells_share_what_a_plain_call_sets():
    def run_cell(cell):
        return contextvars.Context().run(cell)

    setting = run_cell(lambda: parallel_config("threading", n_jobs=2))
    assert run_cell(lambda: resolve().n_jobs) == 2
    run_cell(setting.unregister)
    assert run_cell(lambda: resolve().n_jobs) == 1


def test_block_left_in_another_context_changes_nothing_there():
    outer = parallel_config(n_jobs=2)
    setting = parallel_config("threading")
    context = contextvars.Context()
    context.run(setting.__enter__)
    setting.unregister()
    assert resolve().n_jobs == 2
    outer.unregister()


def test_asyncio_tasks_do_not_see_each_others_blocks(backend_name):
    async def with_block(entered, looked):
        with parallel_config("threading"):
            entered.set()
            await looked.wait()
            return backend_name()

    async def without(entered, looked):
        await entered.wait()
        name = backend_name()
        looked.set()
        return name

    async def main():
        events = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(with_block(*events), without(*events))

    assert asyncio.run(main()) == ["ThreadBackend", "ProcessBackend"]


def test_asyncio_task_started_inside_a_block_sees_it(backend_name):
    async def name():
        return backend_name()

    async def main():
        with parallel_config("threading"):
            task = asyncio.create_task(name())
        return await task

    assert asyncio.run(main()) == "ThreadBackend"


def test_s62_explicit_arguments_win_inside_a_block(backend_name):
    with parallel_backend("threading", n_jobs=3):
        assert resolve(n_jobs=1).n_jobs == 1
        assert backend_name(backend="sequential") == "SequentialBackend"


def test_p01_explicit_default_value_wins_over_a_context():
    with parallel_config(verbose=5, max_nbytes="10M", mmap_mode="c"):
        call = resolve(verbose=0, max_nbytes="".join("1M"), mmap_mode="r")
        assert (call.verbose, call.max_nbytes, call.mmap_mode) == (0, 2**20, "r")
        call = resolve(verbose=VERBOSE, max_nbytes=MAX_NBYTES, mmap_mode=MMAP_MODE)
        assert (call.verbose, call.max_nbytes, call.mmap_mode) == (5, 10 * 2**20, "c")


def test_s06_default_markers_look_like_plain_values():
    assert (VERBOSE, MAX_NBYTES, MMAP_MODE) == (0, "1M", "r")
    assert repr((VERBOSE, MAX_NBYTES, MMAP_MODE)) == "(0, '1M', 'r')"


def test_p01_every_option_reaches_the_call(tmp_path):
    with parallel_config(
        "processes",
        n_jobs=2,
        verbose=7,
        temp_folder=tmp_path,
        max_nbytes=None,
        mmap_mode=None,
        inner_max_num_threads=1,
    ):
        call = resolve()
    assert (call.n_jobs, call.verbose, call.temp_folder) == (2, 7, str(tmp_path))
    assert (call.max_nbytes, call.mmap_mode) == (None, None)
    assert call.inner_max_num_threads == 1


def test_p05_call_wins_with_its_own_inner_max_num_threads():
    with parallel_config(inner_max_num_threads=4):
        assert resolve().inner_max_num_threads == 4
        assert resolve(inner_max_num_threads=2).inner_max_num_threads == 2


def test_p01_misspelt_option_without_a_backend():
    with pytest.raises(ValueError, match="no option 'njobs'"):
        parallel_config(njobs=2)


def test_p01_misspelt_option_of_a_builtin_backend():
    with pytest.raises(ValueError, match=r"'threading' has no parameter 'njobs'"):
        parallel_config("threading", njobs=2)


def test_p01_parameters_of_a_builtin_backend_reach_the_call(monkeypatch, stub_backend):
    monkeypatch.setattr(stub_backend, "param_names", ("lifetime_s",), raising=False)
    with parallel_config("processes", lifetime_s=3):
        assert resolve().backend_params == {"lifetime_s": 3}
        assert resolve("threading").backend_params == {}
        with parallel_config("threading"):
            assert resolve().backend_params == {}


def test_failed_construction_changes_nothing(backend_name):
    with pytest.raises(ValueError, match="mmap_mode"):
        parallel_config("threading", mmap_mode="rw")
    assert backend_name() == "ProcessBackend"


# ---- defaults of the process -------------------------------------------------------


def test_set_config_holds_in_all_threads(in_new_thread):
    set_config(backend="threading", n_jobs=2)
    for call in (resolve(), in_new_thread(resolve)):
        assert (call.backend.name, call.n_jobs) == ("ThreadBackend", 2)


def test_set_config_yields_to_contexts_made_before_and_after():
    setting = parallel_config(n_jobs=5)
    set_config(n_jobs=2, verbose=3, max_nbytes=None)
    call = resolve()
    assert (call.n_jobs, call.verbose, call.max_nbytes) == (5, 3, None)
    setting.unregister()
    with parallel_config(n_jobs=4, max_nbytes="2K"):
        assert (resolve().n_jobs, resolve().max_nbytes) == (4, 2048)
    assert resolve().n_jobs == 2


def test_set_config_keeps_what_is_not_given_and_takes_none_as_reset(backend_name):
    set_config(backend="sequential", n_jobs=2)
    set_config(n_jobs=None)
    assert (backend_name(), resolve().n_jobs) == ("SequentialBackend", 1)
    set_config(backend=None)
    assert backend_name() == "ProcessBackend"


def test_set_config_backend_is_a_choice_that_hints_do_not_change(backend_name):
    set_config(backend="sequential")
    assert backend_name(prefer="threads") == "SequentialBackend"
    assert config.DEFAULT_BACKEND == "sequential"


def test_set_config_does_not_reach_into_tasks_but_for_memory_options(in_task):
    set_config(backend="processes", n_jobs=4, verbose=5, mmap_mode="c")
    call = in_task(1, resolve)
    assert (call.backend.name, call.n_jobs, call.verbose) == ("ThreadBackend", 1, 0)
    assert call.mmap_mode == "c"


def test_environment_sets_defaults(backend_name, monkeypatch):
    monkeypatch.setenv("CYPAR_BACKEND", "threading")
    monkeypatch.setenv("CYPAR_N_JOBS", "3")
    assert (backend_name(), resolve().n_jobs) == ("ThreadBackend", 3)
    set_config(n_jobs=2)
    assert (backend_name(), resolve().n_jobs) == ("ThreadBackend", 2)


@pytest.mark.parametrize(
    ("name", "value"), [("CYPAR_BACKEND", "lokky"), ("CYPAR_N_JOBS", "many")]
)
def test_wrong_environment_names_the_variable(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=rf"{name}.*{value}"):
        resolve()


# ---- the state itself --------------------------------------------------------------


def test_state_cannot_be_changed():
    with pytest.raises(AttributeError, match="replace"):
        config_state.BLANK.n_jobs = 3
    with pytest.raises(AttributeError, match="replace"):
        del config_state.BLANK.n_jobs


def test_state_shows_what_is_set():
    state = config_state.BLANK.replace(n_jobs=2, max_nbytes=None)
    assert repr(state) == "ConfigState(max_nbytes=None, n_jobs=2)"


def test_threads_configure_themselves_independently():
    barrier = threading.Barrier(4)
    n_jobs = {}

    def use(number):
        with parallel_config(n_jobs=number):
            barrier.wait(timeout=10)
            n_jobs[number] = resolve().n_jobs
            barrier.wait(timeout=10)

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(use, range(1, 5)))
    assert n_jobs == {1: 1, 2: 2, 3: 3, 4: 4}
