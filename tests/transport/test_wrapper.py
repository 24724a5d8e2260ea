"""transport/wrapper: objects that the standard pickler can send."""

import pickle

import pytest

from cypar.transport import settings
from cypar.transport.serialize import set_pickler
from cypar.transport.wrapper import wrap_non_picklable_objects


@pytest.fixture(params=["cloudpickle", "pickle"], autouse=True)
def pickler(request):
    set_pickler(request.param)
    yield
    settings.replace(settings.DEFAULT_PICKLER, {})


def send(obj):
    return pickle.loads(pickle.dumps(obj))


def test_functions():
    double = wrap_non_picklable_objects(lambda x: 2 * x)
    assert double(2) == 4
    assert send(send(double))(3) == 6


def test_wrapper_can_be_dropped_on_arrival():
    function = lambda x: x  # noqa: E731
    arrived = send(wrap_non_picklable_objects(function, keep_wrapper=False))
    assert type(arrived) is type(function)


def test_objects_pass_their_attributes_on():
    class Local:
        x = 5

    wrapped = send(wrap_non_picklable_objects(Local()))
    assert wrapped.x == 5
    assert not callable(wrapped)
    assert not hasattr(wrapped, "y")
    assert "wrapped" in repr(wrapped)


def test_classes_make_wrapped_instances():
    @wrap_non_picklable_objects
    class Adder:
        """Adds."""

        def __init__(self, n):
            self.n = n

        def __call__(self, x):
            return x + self.n

    assert (Adder.__name__, Adder.__doc__) == ("Adder", "Adds.")
    assert send(Adder(2))(3) == 5
