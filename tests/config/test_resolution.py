"""Which backend and how many jobs a call gets."""

import pytest

from cypar.backends import registry
from cypar.config import (
    parallel_backend,
    parallel_config,
    set_config,
)
from cypar.core import config_state
from cypar.resolution import (
    effective_n_jobs,
    resolve,
)

# ---- n_jobs ------------------------------------------------------------------------


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


# ---- which backend -----------------------------------------------------------------


def test_s13_default_is_processes(backend_name):
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
def test_s17_builtin_names(backend_name, name, expected):
    assert backend_name(backend=name) == expected
    with parallel_config(name):
        assert backend_name() == expected


def test_s17_builtin_backends_are_shared():
    assert resolve("loky").backend is resolve("processes").backend is resolve().backend


@pytest.mark.parametrize("use", [resolve, parallel_config, parallel_backend])
def test_s17_s60_unknown_name_lists_the_valid_ones(use):
    with pytest.raises(ValueError, match=r"'lokky'.*'loky'.*'threading'"):
        use("lokky")


@pytest.mark.parametrize("thing", [3, object(), dict, ["loky"]])
def test_s17_other_objects_are_refused(thing):
    with pytest.raises(TypeError, match="expected a name"):
        resolve(thing)


def test_s22_prefer_chooses_where_nothing_has(backend_name):
    assert backend_name(prefer="threads") == "ThreadBackend"
    assert backend_name(prefer="processes") == "ProcessBackend"


def test_s22_prefer_does_not_load_the_process_backend():
    resolve(prefer="threads")
    assert registry.BACKENDS["processes"].instance is None


def test_s22_prefer_yields_to_a_context_and_to_backend(backend_name):
    with parallel_backend("loky"):
        assert backend_name(prefer="threads") == "ProcessBackend"
    assert backend_name(backend="threading", prefer="processes") == "ThreadBackend"


def test_s22_prefer_of_a_context(backend_name):
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


def test_s24_sharedmem_of_a_context(backend_name):
    with parallel_config(require="sharedmem", n_jobs=3):
        call = resolve()
        assert backend_name(prefer="processes") == "ThreadBackend"
    assert (call.backend.name, call.n_jobs) == ("ThreadBackend", 3)


def test_s24_sharedmem_keeps_a_backend_that_shares_memory(backend_name):
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


# ---- nesting -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "expected"),
    [(0, "ProcessBackend"), (1, "ThreadBackend"), (2, "SequentialBackend")],
)
def test_s70_p07_default_by_nesting_level(backend_name, in_task, level, expected):
    assert in_task(level, backend_name) == expected
    assert in_task(level, lambda: resolve().nesting_level) == level


def test_p07_hints_do_not_count_inside_tasks(backend_name, in_task):
    assert in_task(1, lambda: backend_name(prefer="processes")) == "ThreadBackend"
    assert in_task(2, lambda: backend_name(prefer="threads")) == "SequentialBackend"


@pytest.mark.parametrize("level", [1, 2, 3])
def test_p07_explicit_backend_counts_on_every_level(backend_name, in_task, level):
    name = in_task(level, lambda: backend_name(backend="processes"))
    assert name == "ProcessBackend"

    def task():
        with parallel_config("threading", n_jobs=2):
            call = resolve()
            return call.backend.name, call.n_jobs, call.nesting_level

    assert in_task(level, task) == ("ThreadBackend", 2, level)


def test_p07_tasks_do_not_take_over_their_callers_settings(in_task):
    with parallel_config("processes", n_jobs=4, verbose=10):
        call = in_task(1, resolve)
    assert (call.backend.name, call.n_jobs, call.verbose) == ("ThreadBackend", 1, 0)


def test_p07_foreign_backend_chooses_for_its_tasks(stub_backend):
    mine = stub_backend("cluster")
    state = config_state.task_state(1, backend=mine, n_jobs=-1)
    call = config_state.task_context(state).run(resolve)
    assert (call.backend, call.n_jobs, call.nesting_level) == (mine, -1, 1)


def test_p07_setting_made_in_a_task_ends_with_its_context(backend_name, in_task):
    assert in_task(1, lambda: parallel_config("sequential")) is not None
    assert backend_name() == "ProcessBackend"


def test_p07_worker_process_counts_in_all_its_threads(backend_name, in_new_thread):
    # as in a forked worker, whose parent had settings in force
    setting = parallel_config("processes", n_jobs=4)
    config_state.become_worker(1)
    assert (backend_name(), resolve().n_jobs) == ("ThreadBackend", 1)
    assert in_new_thread(backend_name) == "ThreadBackend"
    setting.unregister()


def test_worker_process_ignores_the_programs_environment(backend_name, monkeypatch):
    monkeypatch.setenv("CYPAR_BACKEND", "registered_in_the_parent_only")
    config_state.become_worker(1)
    assert backend_name() == "ThreadBackend"


def test_draw_context_holds_the_callers_settings_in_any_thread(
    backend_name, in_new_thread
):
    setting = parallel_config("threading", n_jobs=2)
    context = config_state.caller_context()
    assert in_new_thread(lambda: context.run(backend_name)) == "ThreadBackend"
    setting.unregister()
