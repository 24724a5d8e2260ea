"""transport/settings: the user's choice of pickler, and reducers."""

import json
import pickle
import sys
import types
from fractions import Fraction

import numpy as np
import pytest

from cypar.transport import serialize, settings
from cypar.transport.serialize import dumps, loads


@pytest.fixture
def default_settings():
    yield
    settings.replace(settings.DEFAULT_PICKLER, {})


@pytest.mark.usefixtures("default_settings")
class TestSettings:
    """S69, P30."""

    def test_reducers_work_in_both_directions(self, in_worker):
        serialize.register_reducer(Fraction, lambda x: (Fraction, (x.numerator + 1, 3)))
        assert loads(dumps([Fraction(1, 3)])) == [Fraction(2, 3)]
        assert loads(dumps([Fraction(1, 3), lambda: 1]))[0] == Fraction(2, 3)
        body = """
        from fractions import Fraction
        from cypar.transport.serialize import import_settings
        import_settings(sent)
        answer = dumps_result(Fraction(4, 3))
        """
        answer = loads(in_worker(serialize.export_settings(), body))
        assert answer == Fraction(5, 3)
        serialize.register_reducer(Fraction, None)
        assert loads(dumps(Fraction(1, 3))) == Fraction(1, 3)

    def test_reducer_for_arrays_is_asked(self):
        serialize.register_reducer(np.ndarray, lambda a: (list, (a.tolist(),)))
        assert loads(dumps((np.arange(2),))) == ([0, 1],)

    def test_pickle_alone_sends_no_lambdas(self):
        serialize.set_pickler("pickle")
        assert serialize.get_pickler_name() == "pickle"
        assert loads(dumps(json.dumps)) is json.dumps
        with pytest.raises((pickle.PicklingError, AttributeError)):
            dumps(lambda: 1)

    def test_pickle_alone_asks_reducers(self):
        serialize.set_pickler("pickle")
        serialize.register_reducer(Fraction, lambda x: (int, (7,)))
        assert loads(dumps(Fraction(1, 2))) == 7

    def test_dill(self):
        pytest.importorskip("dill")
        serialize.set_pickler("dill")
        assert loads(dumps(lambda: 3))() == 3

    def test_modules_with_a_pickler_class(self, user_module):
        user_module(
            "own_pickler",
            """
            import pickle
            class Pickler(pickle.Pickler):
                def reducer_override(self, obj):
                    return (str, ("seen",)) if type(obj) is range else NotImplemented
            """,
        )
        serialize.set_pickler("own_pickler")
        serialize.register_reducer(Fraction, lambda x: (int, (7,)))
        assert loads(dumps([range(1), Fraction(1)])) == ["seen", 7]

    def test_modules_with_dumps_only(self):
        module = types.ModuleType("dumps_only")
        module.dumps = lambda obj: pickle.dumps(["wrapped", obj])
        try:
            serialize.set_pickler(module)
            assert loads(dumps(1)) == ["wrapped", 1]
        finally:
            del sys.modules["dumps_only"]

    def test_unusable_modules_are_refused(self):
        with pytest.raises(ImportError, match="no_such_pickler"):
            serialize.set_pickler("no_such_pickler")
        with pytest.raises(ValueError, match="neither a class Pickler"):
            serialize.set_pickler("math")
        assert serialize.get_pickler_name() == "cloudpickle"

    def test_bad_reducers_are_refused(self):
        with pytest.raises(TypeError, match="must be a class"):
            serialize.register_reducer(1, len)
        with pytest.raises(TypeError, match="callable or None"):
            serialize.register_reducer(int, 1)

    def test_settings_travel_with_any_pickler(self):
        serialize.set_pickler("pickle")
        serialize.register_reducer(Fraction, lambda x: (int, (7,)))
        exported = serialize.export_settings()
        settings.replace(settings.DEFAULT_PICKLER, {})
        serialize.import_settings(exported)
        assert serialize.get_pickler_name() == "pickle"
        assert loads(dumps(Fraction(1))) == 7


@pytest.mark.parametrize("variable", ["CYPAR_PICKLER", "LOKY_PICKLER"])
def test_environment_chooses_the_pickler(run_python, variable):
    program = "from cypar.transport.serialize import *; print(get_pickler_name())"
    env = {"CYPAR_PICKLER": None, "LOKY_PICKLER": None, variable: "pickle"}
    assert run_python("-c", program, env=env).stdout.strip() == "pickle"


def test_wrong_name_in_the_environment_is_reported_at_the_first_use(run_python):
    program = "from cypar.transport.serialize import dumps\ndumps(1)"
    error = run_python("-c", program, env={"CYPAR_PICKLER": "nix"}, returncode=1).stderr
    assert "the pickler 'nix' cannot be imported" in error
