"""core/_delayed: a call that is written and not made."""

import copy
import functools
import inspect
import operator
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cypar import Parallel, delayed


def scale(x, factor=2, *, offset=0):
    """Scale and shift."""
    return x * factor + offset


class Scaler:
    def __call__(self, x):
        return 3 * x

    def method(self, x):
        return 4 * x


values = st.one_of(st.integers(), st.text(max_size=3), st.lists(st.integers()))


@given(st.lists(values), st.dictionaries(st.text(max_size=5), values))
def test_a_delayed_call_is_the_plain_tuple(args, kwargs):
    task = delayed(scale)(*args, **kwargs)
    assert type(task) is tuple
    assert task == (scale, tuple(args), kwargs)
    assert [type(part) for part in task[1:]] == [tuple, dict]


def test_arguments_are_the_callers_objects():
    x, factor = [1], {2: 3}
    function, args, kwargs = delayed(scale)(x, factor=factor)
    assert function is scale
    assert args[0] is x
    assert kwargs["factor"] is factor


def test_keywords_of_any_name_arrive():
    _, args, kwargs = delayed(dict)(self=1, function=2, check_pickle=3)
    assert args == ()
    assert kwargs == {"self": 1, "function": 2, "check_pickle": 3}


def test_each_call_has_a_dict_of_its_own():
    call = delayed(scale)
    options = {"factor": 1}
    assert call(**options)[2] is not options
    assert call()[2] is not call()[2]


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (abs, (-3,)),
        (operator.add, (1, 2)),
        ("abc".upper, ()),
        (functools.partial(scale, factor=5), (2,)),
        (Scaler(), (2,)),
        (Scaler().method, (2,)),
        (int, ("7",)),
        (lambda x: x, (1,)),
    ],
    ids=[
        "builtin",
        "operator",
        "builtin method",
        "partial",
        "callable object",
        "method",
        "class",
        "lambda",
    ],
)
def test_any_callable_may_be_delayed(function, args):
    assert delayed(function)(*args) == (function, args, {})
    assert Parallel(n_jobs=1)([delayed(function)(*args)]) == [function(*args)]


@pytest.mark.parametrize("value", [3, "text", None, [abs], scale(1)], ids=repr)
def test_what_cannot_be_called_is_refused(value):
    with pytest.raises(TypeError) as caught:
        delayed(value)
    assert f"got {type(value).__name__}" in str(caught.value)
    assert "delayed(function)(arguments)" in str(caught.value)


def test_it_needs_a_function():
    with pytest.raises(TypeError):
        delayed()


@pytest.mark.parametrize("check_pickle", [None, True, False])
def test_check_pickle_is_accepted_and_ignored(check_pickle):
    assert delayed(scale, check_pickle)(1) == (scale, (1,), {})
    assert delayed(scale, check_pickle=check_pickle)(1) == (scale, (1,), {})


def test_it_may_be_a_decorator():
    @delayed
    def double(x):
        return 2 * x

    assert Parallel(n_jobs=1)(double(i) for i in range(3)) == [0, 2, 4]


# ---- names ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["__name__", "__qualname__", "__module__", "__doc__"])
def test_it_has_the_names_of_its_function(name):
    assert getattr(delayed(scale), name) == getattr(scale, name)


def test_the_class_has_its_own_documentation():
    assert delayed.__doc__.startswith(("delayed(", "Capture the arguments"))
    assert delayed.__name__ == "delayed"


def test_it_has_the_signature_of_its_function():
    assert delayed(scale).__wrapped__ is scale
    assert inspect.signature(delayed(scale)) == inspect.signature(scale)


def test_it_has_the_attributes_of_its_function():
    def function():
        pass

    function.unit = "m"
    assert delayed(function).unit == "m"


def test_an_attribute_that_the_function_lacks_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_like_it"):
        delayed(scale).nothing_like_it  # noqa: B018
    assert not hasattr(delayed(functools.partial(scale)), "__name__")


def test_its_text_shows_the_function():
    assert repr(delayed(abs)) == "delayed(<built-in function abs>)"


# ---- copies -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda obj: pickle.loads(pickle.dumps(obj))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copy_delays_the_same_function(copied):
    assert copied(delayed(operator.add))(1, y=2) == (operator.add, (1,), {"y": 2})


def test_a_lambda_cannot_be_pickled_in_it():
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(delayed(lambda: 1))


def test_an_empty_one_does_not_recurse():
    with pytest.raises(AttributeError):
        delayed.__new__(delayed).missing  # noqa: B018


class Named(delayed):
    """A subclass with an argument of its own."""

    def __init__(self, function, name="nobody"):
        super().__init__(function)
        self.name = name


@pytest.mark.parametrize(
    ("args", "keywords"),
    [
        ((abs,), {}),
        ((), {"function": abs}),
        ((abs, True), {}),
        ((abs,), {"check_pickle": False}),
        ((), {"check_pickle": None, "function": abs}),
    ],
)
def test_all_ways_to_give_the_function(args, keywords):
    assert delayed(*args, **keywords)(-1) == (abs, (-1,), {})


@pytest.mark.parametrize(
    ("args", "keywords"),
    [
        ((), {}),
        ((abs, None, 1), {}),
        ((abs,), {"function": abs}),
        ((abs,), {"other": 1}),
        ((3,), {}),
        ((), {"function": None}),
    ],
)
def test_wrong_arguments_of_delayed_itself(args, keywords):
    with pytest.raises(TypeError):
        delayed(*args, **keywords)


def test_a_subclass_has_its_own_constructor():
    made = Named(abs, "somebody")
    assert type(made) is Named
    assert made.name == "somebody"
    assert made(-1) == (abs, (-1,), {})
    assert Named(abs).name == "nobody"
