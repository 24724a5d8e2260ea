"""Contexts, defaults and the choice of a backend, with stubs for the backends."""

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import pytest

from cypar import config
from cypar.backends import registry
from cypar.backends.base import Backend
from cypar.config import (
    parallel_backend,
    parallel_config,
    register_parallel_backend,
    set_config,
)
from cypar.core import config_state
from cypar.core.errors import CyparWarning
from cypar.resolution import (
    MAX_NBYTES,
    MMAP_MODE,
    VERBOSE,
    effective_n_jobs,
    get_active_backend,
    resolve,
)


class StubBackend(Backend):
    def __init__(self, name, context=None):
        self.name = name
        self.context = context
        self.supports_sharedmem = name in ("ThreadBackend", "SequentialBackend")

    def effective_n_jobs(self, n_jobs):
        if self.name == "SequentialBackend":
            return 1
        return n_jobs if n_jobs > 0 else max(8 + 1 + n_jobs, 1)


class StubAdapter(Backend):
    """Stands for both adapters of backends/foreign.py."""

    def __init__(self, wrapped):
        self.wrapped = wrapped
        self.supports_sharedmem = getattr(wrapped, "supports_sharedmem", False)
        self.default_n_jobs = getattr(wrapped, "default_n_jobs", 1)

    def effective_n_jobs(self, n_jobs):
        return self.wrapped.effective_n_jobs(n_jobs)


class JoblibStyleBackend:
    """What a user writes: no base class, no call of super().__init__."""

    supports_sharedmem = False

    def __init__(self, endpoint="here", api_key=None):
        self.endpoint = endpoint
        self.api_key = api_key

    def configure(self, n_jobs=1, parallel=None, prefer=None, require=None, **params):
        return self.effective_n_jobs(n_jobs)

    def effective_n_jobs(self, n_jobs):
        return 5

    def apply_async(self, func, callback=None):
        raise NotImplementedError


@pytest.fixture(autouse=True)
def clean_slate(monkeypatch):
    """Stub backends, no environment, and a check that the test leaves nothing set."""
    names = ("CYPAR_BACKEND", "CYPAR_N_JOBS")
    for name in (*names, "CYPAR_MULTIPROCESSING", "JOBLIB_MULTIPROCESSING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(config, "_process_defaults", None)
    monkeypatch.setattr(registry, "_processes_allowed", None)
    monkeypatch.setattr(registry, "default_name", registry.default_name)
    monkeypatch.setattr(registry, "_adapter", lambda class_name: StubAdapter)
    monkeypatch.setattr(
        registry.BuiltinFactory,
        "load",
        lambda self: lambda **params: StubBackend(self.class_name, **params),
    )
    for factory in {id(f): f for f in registry.BACKENDS.values()}.values():
        monkeypatch.setattr(factory, "instance", None)
    names_before = dict(registry.BACKENDS)
    yield
    registry.BACKENDS.clear()
    registry.BACKENDS.update(names_before)
    config_state._base = config_state.BLANK  # some tests play a worker process
    assert config_state.current() is config_state.BLANK


def backend_name(**arguments):
    return resolve(**arguments).backend.name


def in_task(level, function):
    """Call ``function`` as a task of this nesting level would."""
    state = config_state.task_state(level)
    return config_state.task_context(state).run(function)


def in_new_thread(function):
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(function).result()


# ---- n_jobs -----------------------------------------------------------------------


def test_s08_n_jobs_none_is_one_outside_a_context():
    assert resolve().n_jobs == 1
    assert resolve(n_jobs=None).n_jobs == 1


def test_s08_n_jobs_none_takes_the_contexts():
    with parallel_config(n_jobs=3):
        assert resolve().n_jobs == 3
        assert resolve(n_jobs=None).n_jobs == 3


def test_s10_s11_negative_n_jobs_are_left_to_the_backend():
    assert resolve(n_jobs=-1).n_jobs == -1
    assert effective_n_jobs(-1) == 8
    assert effective_n_jobs(-2) == 7
    assert effective_n_jobs(-1000) == 1


def test_s12_n_jobs_zero_is_refused():
    with pytest.raises(ValueError, match="zero jobs"):
        resolve(n_jobs=0)
    with pytest.raises(ValueError, match="zero jobs"):
        parallel_config(n_jobs=0)


def test_s12_n_jobs_float_is_truncated():
    assert resolve(n_jobs=2.9).n_jobs == 2


@pytest.mark.parametrize("n_jobs", ["two", "1.5", float("inf"), float("nan")])
def test_s12_n_jobs_that_is_no_integer_is_refused(n_jobs):
    with pytest.raises(ValueError, match="n_jobs must be an integer"):
        resolve(n_jobs=n_jobs)


# ---- which backend ----------------------------------------------------------------


def test_s13_default_is_processes():
    assert backend_name() == "ProcessBackend"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("processes", "ProcessBackend"),
        ("loky", "ProcessBackend"),
        ("threading", "ThreadBackend"),
        ("threads", "ThreadBackend"),
        ("multiprocessing", "MultiprocessingBackend"),
        ("sequential", "SequentialBackend"),
    ],
)
def test_s17_builtin_names(name, expected):
    assert backend_name(backend=name) == expected
    with parallel_config(name):
        assert backend_name() == expected


def test_s17_builtin_backends_are_shared():
    assert resolve("loky").backend is resolve("processes").backend is resolve().backend


@pytest.mark.parametrize("use", [resolve, parallel_config, parallel_backend])
def test_s17_s60_unknown_name_lists_the_valid_ones(use):
    with pytest.raises(ValueError, match=r"'lokky'.*'loky'.*'threading'"):
        use("lokky")


@pytest.mark.parametrize("thing", [3, object(), JoblibStyleBackend, ["loky"]])
def test_s17_other_objects_are_refused(thing):
    with pytest.raises(TypeError, match="expected a name"):
        resolve(thing)


def test_s22_prefer_chooses_where_nothing_has():
    assert backend_name(prefer="threads") == "ThreadBackend"
    assert backend_name(prefer="processes") == "ProcessBackend"


def test_s22_prefer_does_not_load_the_process_backend():
    resolve(prefer="threads")
    assert registry.BACKENDS["processes"].instance is None


def test_s22_prefer_yields_to_a_context_and_to_backend():
    with parallel_backend("loky"):
        assert backend_name(prefer="threads") == "ProcessBackend"
    assert backend_name(backend="threading", prefer="processes") == "ThreadBackend"


def test_s22_prefer_of_a_context():
    with parallel_config(prefer="threads"):
        assert backend_name() == "ThreadBackend"
        assert backend_name(prefer="processes") == "ProcessBackend"


def test_s23_hard_coded_backend_wins_over_a_context():
    with parallel_config("threading", n_jobs=3):
        call = resolve("processes")
    assert call.backend.name == "ProcessBackend"
    assert call.n_jobs == 3


def test_s24_sharedmem_turns_processes_into_threads_and_keeps_n_jobs():
    with parallel_backend("loky", n_jobs=4):
        call = resolve(require="sharedmem")
    assert call.backend.name == "ThreadBackend"
    assert call.n_jobs == 4


def test_s24_sharedmem_of_a_context():
    with parallel_config(require="sharedmem", n_jobs=3):
        call = resolve()
        assert backend_name(prefer="processes") == "ThreadBackend"
    assert (call.backend.name, call.n_jobs) == ("ThreadBackend", 3)


def test_s24_sharedmem_keeps_a_backend_that_shares_memory():
    with parallel_config("sequential"):
        assert backend_name(require="sharedmem") == "SequentialBackend"


def test_s24_the_change_is_told_when_verbose(capsys):
    with parallel_config("loky"):
        resolve(require="sharedmem", verbose=10)
    assert "threads are used" in capsys.readouterr().err


@pytest.mark.parametrize("use", [resolve, parallel_config, set_config])
def test_s26_hint_against_constraint(use):
    with pytest.raises(ValueError, match="contradict"):
        use(prefer="processes", require="sharedmem")


def test_s26_process_backend_against_sharedmem():
    with pytest.raises(ValueError, match=r"'loky'.*share memory"):
        resolve(backend="loky", require="sharedmem")


@pytest.mark.parametrize("use", [resolve, parallel_config, set_config])
@pytest.mark.parametrize("option", ["prefer", "require"])
@pytest.mark.parametrize("value", ["sharedmen", 3, ["threads"]])
def test_s26_unknown_hints(use, option, value):
    with pytest.raises(ValueError, match=f"{option} must be one of None, '"):
        use(**{option: value})


# ---- contexts ---------------------------------------------------------------------


def test_s60_parallel_backend_means_all_cpus():
    with parallel_backend("threading"):
        assert resolve().n_jobs == -1
        assert resolve(n_jobs=2).n_jobs == 2


def test_s60_parallel_backend_gives_backend_and_n_jobs():
    with parallel_backend("threading", n_jobs=3) as (backend, n_jobs):
        assert (backend.name, n_jobs) == ("ThreadBackend", 3)


def test_s61_blocks_nest_and_keep_what_they_do_not_set():
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


def test_s61_settings_go_when_an_exception_leaves_the_block():
    with pytest.raises(ZeroDivisionError), parallel_config("threading"):
        raise ZeroDivisionError
    assert backend_name() == "ProcessBackend"


def test_s61_settings_hold_from_construction():
    setting = parallel_config("threading", n_jobs=2)
    assert (backend_name(), resolve().n_jobs) == ("ThreadBackend", 2)
    setting.unregister()
    setting.unregister()  # a second time does nothing
    assert backend_name() == "ProcessBackend"


def test_s61_plain_call_inside_a_block_ends_with_it():
    with parallel_config("threading"):
        parallel_config("sequential")
        assert backend_name() == "SequentialBackend"
    assert backend_name() == "ProcessBackend"


def test_s61_plain_call_before_a_block_outlives_it():
    setting = parallel_config("threading", n_jobs=2)
    with parallel_config(n_jobs=4):
        assert (backend_name(), resolve().n_jobs) == ("ThreadBackend", 4)
    assert (backend_name(), resolve().n_jobs) == ("ThreadBackend", 2)
    setting.unregister()


@pytest.mark.parametrize("enter", [False, True], ids=["plain call", "with block"])
def test_s61_other_threads_do_not_see_it(enter):
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


def test_s61_block_can_be_entered_again():
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


def test_asyncio_tasks_do_not_see_each_others_blocks():
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


def test_asyncio_task_started_inside_a_block_sees_it():
    async def name():
        return backend_name()

    async def main():
        with parallel_config("threading"):
            task = asyncio.create_task(name())
        return await task

    assert asyncio.run(main()) == "ThreadBackend"


def test_s62_explicit_arguments_win_inside_a_block():
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


def test_p01_parameters_of_a_builtin_backend_reach_the_call(monkeypatch):
    monkeypatch.setattr(StubBackend, "param_names", ("lifetime_s",), raising=False)
    with parallel_config("processes", lifetime_s=3):
        assert resolve().backend_params == {"lifetime_s": 3}
        assert resolve("threading").backend_params == {}
        with parallel_config("threading"):
            assert resolve().backend_params == {}


def test_failed_construction_changes_nothing():
    with pytest.raises(ValueError, match="mmap_mode"):
        parallel_config("threading", mmap_mode="rw")
    assert backend_name() == "ProcessBackend"


# ---- backends of others -----------------------------------------------------------


def test_s57_registered_name_is_valid_everywhere():
    register_parallel_backend("mine", JoblibStyleBackend)
    assert isinstance(resolve("mine").backend.wrapped, JoblibStyleBackend)
    with parallel_backend("mine"):
        assert isinstance(resolve().backend.wrapped, JoblibStyleBackend)
    assert "mine" in config.BACKENDS


def test_s57_make_default():
    register_parallel_backend("mine", JoblibStyleBackend, make_default=True)
    assert isinstance(resolve().backend.wrapped, JoblibStyleBackend)
    assert backend_name(prefer="threads") == "ThreadBackend"
    assert config.DEFAULT_BACKEND == "mine"


@pytest.mark.parametrize("arguments", [(3, dict), ("mine", JoblibStyleBackend())])
def test_s57_wrong_arguments(arguments):
    with pytest.raises(TypeError, match="must be a"):
        register_parallel_backend(*arguments)


def test_s58_factory_without_arguments():
    register_parallel_backend("mine", lambda: JoblibStyleBackend())
    assert resolve("mine").backend.wrapped.nesting_level == 0


def test_s58_factory_with_nesting_level():
    levels = []

    def factory(nesting_level=None):
        levels.append(nesting_level)
        return JoblibStyleBackend()

    register_parallel_backend("mine", factory)
    in_task(2, lambda: resolve("mine"))
    assert levels == [2]


def test_s58_factory_with_kwargs_gets_from_a_context_what_the_user_wrote():
    seen = []

    def factory(**params):
        seen.append(params)
        return JoblibStyleBackend()

    register_parallel_backend("mine", factory)
    with parallel_backend("mine", endpoint="there"):
        resolve("mine")
    assert seen == [{"endpoint": "there"}, {"nesting_level": 0}]


def test_s58_factory_that_returns_no_backend():
    register_parallel_backend("mine", dict)
    with pytest.raises(TypeError, match=r"factory of 'mine' returned is a dict"):
        resolve("mine")


def test_s58_type_error_inside_a_factory_is_not_hidden():
    def factory(nesting_level=None):
        raise TypeError("my own fault")

    register_parallel_backend("mine", factory)
    with pytest.raises(TypeError, match="my own fault"):
        resolve("mine")


def test_s59_constructor_parameters():
    register_parallel_backend("custom", JoblibStyleBackend)
    with parallel_backend("custom", endpoint="http://compute", api_key="42"):
        first, second = resolve().backend, resolve().backend
    assert first is second  # one object for the whole block
    assert first.wrapped.endpoint == "http://compute"
    assert first.wrapped.api_key == "42"


def test_s63_instance():
    mine = JoblibStyleBackend()
    assert resolve(mine).backend.wrapped is mine
    with parallel_backend(mine):
        assert resolve().backend.wrapped is mine
    assert mine.nesting_level == 0


@pytest.mark.parametrize("use", [parallel_config, parallel_backend])
def test_s63_parameters_with_an_instance(use):
    with pytest.raises(ValueError, match="'endpoint'"):
        use(JoblibStyleBackend(), endpoint="there")


def test_s63_cypar_backend_instance():
    mine = StubBackend("mine")
    assert resolve(mine).backend is mine


def test_s64_subclass_of_joblibs_base_class():
    from joblib.parallel import ParallelBackendBase

    class Theirs(ParallelBackendBase):
        def effective_n_jobs(self, n_jobs):
            return 3

        def submit(self, func, callback=None):
            raise NotImplementedError

    mine = Theirs()
    assert resolve(mine).backend.wrapped is mine
    with parallel_config(mine):
        assert effective_n_jobs() == 3


def test_s64_default_n_jobs_of_the_backend():
    mine = JoblibStyleBackend()
    mine.default_n_jobs = -1
    assert resolve(mine).n_jobs == -1
    with parallel_config(n_jobs=2):
        assert resolve(mine).n_jobs == 2


def test_s64_executor():
    with ThreadPoolExecutor(1) as executor:
        assert resolve(executor).backend.wrapped is executor


def test_p05_limit_reaches_a_backend_that_knows_it():
    mine = JoblibStyleBackend()
    mine.supports_inner_max_num_threads = True
    with parallel_config(mine, inner_max_num_threads=2):
        assert mine.inner_max_num_threads == 2


def test_p05_limit_is_refused_by_a_backend_that_does_not():
    with pytest.raises(ValueError, match="cannot limit the threads"):
        parallel_config(JoblibStyleBackend(), inner_max_num_threads=2)


def test_p09_without_multiprocessing_the_default_is_threads(monkeypatch):
    monkeypatch.setenv("JOBLIB_MULTIPROCESSING", "0")
    assert backend_name() == "ThreadBackend"
    assert backend_name(prefer="processes") == "ThreadBackend"
    with pytest.warns(CyparWarning, match="'loky' needs processes"):
        assert backend_name(backend="loky") == "ThreadBackend"


def test_p09_cypars_variable_wins(monkeypatch):
    monkeypatch.setenv("JOBLIB_MULTIPROCESSING", "0")
    monkeypatch.setenv("CYPAR_MULTIPROCESSING", "1")
    assert backend_name() == "ProcessBackend"


def test_p10_multiprocessing_context():
    context = get_context("spawn")
    backend = resolve(context).backend
    assert backend.name == "MultiprocessingBackend"
    assert backend.context is context


def test_p52_names_for_third_party_code():
    assert config.DEFAULT_BACKEND == "processes"
    assert {"loky", "threading", "multiprocessing", "sequential"} <= set(
        config.BACKENDS
    )
    backend, n_jobs = get_active_backend()
    assert (backend.name, n_jobs) == ("ProcessBackend", None)
    with parallel_backend("threading", n_jobs=3):
        backend, n_jobs = get_active_backend()
        assert (backend.name, n_jobs) == ("ThreadBackend", 3)


def test_p52_builtin_factory_can_be_called():
    assert config.BACKENDS["threading"](nesting_level=0).name == "ThreadBackend"


def test_p04_effective_n_jobs_asks_the_active_backend():
    assert effective_n_jobs(None) == 1
    assert effective_n_jobs(1) == 1
    with parallel_backend("threading", n_jobs=3):
        assert effective_n_jobs(None) == 3
        assert effective_n_jobs() == 8
    with parallel_backend("sequential"):
        assert effective_n_jobs(4) == 1


# ---- nesting ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "expected"),
    [(0, "ProcessBackend"), (1, "ThreadBackend"), (2, "SequentialBackend")],
)
def test_p07_default_by_nesting_level(level, expected):
    assert in_task(level, backend_name) == expected
    assert in_task(level, lambda: resolve().nesting_level) == level


def test_p07_hints_do_not_count_inside_tasks():
    assert in_task(1, lambda: backend_name(prefer="processes")) == "ThreadBackend"
    assert in_task(2, lambda: backend_name(prefer="threads")) == "SequentialBackend"


@pytest.mark.parametrize("level", [1, 2, 3])
def test_p07_explicit_backend_counts_on_every_level(level):
    name = in_task(level, lambda: backend_name(backend="processes"))
    assert name == "ProcessBackend"

    def task():
        with parallel_config("threading", n_jobs=2):
            call = resolve()
            return call.backend.name, call.n_jobs, call.nesting_level

    assert in_task(level, task) == ("ThreadBackend", 2, level)


def test_p07_tasks_do_not_take_over_their_callers_settings():
    with parallel_config("processes", n_jobs=4, verbose=10):
        call = in_task(1, resolve)
    assert (call.backend.name, call.n_jobs, call.verbose) == ("ThreadBackend", 1, 0)


def test_p07_foreign_backend_chooses_for_its_tasks():
    mine = StubBackend("cluster")
    state = config_state.task_state(1, backend=mine, n_jobs=-1)
    call = config_state.task_context(state).run(resolve)
    assert (call.backend, call.n_jobs, call.nesting_level) == (mine, -1, 1)


def test_p07_setting_made_in_a_task_ends_with_its_context():
    assert in_task(1, lambda: parallel_config("sequential")) is not None
    assert backend_name() == "ProcessBackend"


def test_p07_worker_process_counts_in_all_its_threads():
    # as in a forked worker, whose parent had settings in force
    setting = parallel_config("processes", n_jobs=4)
    config_state.become_worker(1)
    assert (backend_name(), resolve().n_jobs) == ("ThreadBackend", 1)
    assert in_new_thread(backend_name) == "ThreadBackend"
    setting.unregister()


def test_worker_process_ignores_the_programs_environment(monkeypatch):
    monkeypatch.setenv("CYPAR_BACKEND", "registered_in_the_parent_only")
    config_state.become_worker(1)
    assert backend_name() == "ThreadBackend"


def test_draw_context_holds_the_callers_settings_in_any_thread():
    setting = parallel_config("threading", n_jobs=2)
    context = config_state.caller_context()
    assert in_new_thread(lambda: context.run(backend_name)) == "ThreadBackend"
    setting.unregister()


# ---- defaults of the process ------------------------------------------------------


def test_set_config_holds_in_all_threads():
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


def test_set_config_keeps_what_is_not_given_and_takes_none_as_reset():
    set_config(backend="sequential", n_jobs=2)
    set_config(n_jobs=None)
    assert (backend_name(), resolve().n_jobs) == ("SequentialBackend", 1)
    set_config(backend=None)
    assert backend_name() == "ProcessBackend"


def test_set_config_backend_is_a_choice_that_hints_do_not_change():
    set_config(backend="sequential")
    assert backend_name(prefer="threads") == "SequentialBackend"
    assert config.DEFAULT_BACKEND == "sequential"


def test_set_config_does_not_reach_into_tasks_but_for_memory_options():
    set_config(backend="processes", n_jobs=4, verbose=5, mmap_mode="c")
    call = in_task(1, resolve)
    assert (call.backend.name, call.n_jobs, call.verbose) == ("ThreadBackend", 1, 0)
    assert call.mmap_mode == "c"


def test_environment_sets_defaults(monkeypatch):
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


# ---- the state itself -------------------------------------------------------------


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
