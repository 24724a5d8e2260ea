"""Wrap one object so that any pickler can send it.

For code that pickles with the standard library alone (``set_pickler('pickle')``, or a
pool of `multiprocessing`): the wrapper pickles its object as `dumps` does by default.
"""

from __future__ import annotations

from cypar.transport.serialize import dumps_anything, loads

_OWN_NAMES = ("_wrapped", "_keep_wrapper")


def wrap_non_picklable_objects(obj, keep_wrapper=True):
    """Return a stand-in for ``obj`` that the standard pickler can pickle.

    Parameters
    ----------
    obj : object
        Function, class or any other object. For a class, the result is a class whose
        instances are wrapped.
    keep_wrapper : bool, default=True
        Whether the object is still wrapped after it was loaded, and so can be pickled
        again. With False the object itself arrives.

    Returns
    -------
    object
        Attributes and calls are passed on to ``obj``.

    Examples
    --------
    >>> import pickle
    >>> double = wrap_non_picklable_objects(lambda x: 2 * x)
    >>> pickle.loads(pickle.dumps(double))(21)
    42
    """
    if isinstance(obj, type):
        return _wrap_class(obj, keep_wrapper)
    return _kind_of_wrapper(obj)(obj, keep_wrapper)


class Wrapper:
    """Pass attributes on to a wrapped object and pickle it by value."""

    def __init__(self, wrapped, keep_wrapper=True):
        self._wrapped = wrapped
        self._keep_wrapper = keep_wrapper

    def __reduce__(self):
        return _load, (dumps_anything(self._wrapped), self._keep_wrapper)

    def __getattr__(self, name):
        if name in _OWN_NAMES:  # asked while __init__ has not run
            raise AttributeError(name)
        return getattr(self._wrapped, name)

    def __repr__(self):
        return f"<wrapped {self._wrapped!r}>"


class CallableWrapper(Wrapper):
    """A wrapper for functions and other callables."""

    def __call__(self, *args, **kwargs):
        return self._wrapped(*args, **kwargs)


def _kind_of_wrapper(obj):
    return CallableWrapper if callable(obj) else Wrapper


def _load(data, keep_wrapper):
    obj = loads(data)
    return _kind_of_wrapper(obj)(obj, keep_wrapper) if keep_wrapper else obj


def _wrap_class(cls, keep_wrapper):
    has_call = any("__call__" in vars(parent) for parent in cls.__mro__)
    base = CallableWrapper if has_call else Wrapper

    class WrappedClass(base):
        def __init__(self, *args, **kwargs):
            super().__init__(cls(*args, **kwargs), keep_wrapper)

    WrappedClass.__name__ = cls.__name__
    WrappedClass.__qualname__ = cls.__qualname__
    WrappedClass.__doc__ = cls.__doc__
    return WrappedClass
