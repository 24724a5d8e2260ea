"""Tell plain data from objects whose pickling needs care.

Only exact types count: a subclass may carry anything. The walk is bounded in depth and
in number of objects, so that a self-containing list or a huge one costs little; what is
over the bound is "not plain", which callers must treat as "unknown".

Thread safety: GIL. Nothing here runs Python code, so no container changes meanwhile.
"""

import sys

from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject
from cpython.set cimport PySet_Contains

# Nesting that is looked into. Task arguments are seldom deeper than (args, kwargs).
cdef int MAX_DEPTH = 6
# Objects looked at: 0.1 ms at most, far below what pickling as many takes.
cdef Py_ssize_t MAX_OBJECTS = 1 << 16
# dtype.kind of arrays without Python objects and without fields.
cdef str ARRAY_KINDS = "biufcSUmM"

cdef set LEAF_TYPES = {type(None), bool, int, float, complex, str, bytes, range,
                       type(Ellipsis)}
cdef object NDARRAY = None  # numpy.ndarray once NumPy is seen in sys.modules


cpdef bint is_immutable(object obj) noexcept:
    """Tell whether ``obj`` is deeply immutable plain data.

    True only for exact None, bool, int, float, complex, str, bytes, range, Ellipsis
    and NumPy scalars, and for tuples and frozensets of these up to 6 levels deep.
    False also means "too large to find out".
    """
    cdef Py_ssize_t budget = MAX_OBJECTS
    return _walk(obj, MAX_DEPTH, False, &budget)


cpdef bint is_plain(object obj) noexcept:
    """Tell whether the C pickler alone gives the right bytes for ``obj``.

    True for what `is_immutable` accepts and for bytearray, list, dict, set and NumPy
    arrays of numbers, dates or text, nested up to 6 levels deep.
    """
    cdef Py_ssize_t budget = MAX_OBJECTS
    return _walk(obj, MAX_DEPTH, True, &budget)


cdef bint _walk(object obj, int depth, bint allow_mutable, Py_ssize_t* budget) noexcept:
    cdef object kind = type(obj)
    # The commonest types first, by pointer; the set lookup costs 10 ns.
    if kind is int or kind is float or kind is str or obj is None or kind is bytes:
        return True
    if kind is tuple:
        return _walk_tuple(<tuple>obj, depth, allow_mutable, budget)
    if allow_mutable:
        if kind is list:
            return _walk_list(<list>obj, depth, budget)
        if kind is dict:
            return _walk_dict(<dict>obj, depth, budget)
        if kind is set or kind is frozenset:
            return _walk_set(obj, depth, True, budget)
        if kind is bytearray:
            return True
    elif kind is frozenset:
        return _walk_set(obj, depth, False, budget)
    return _is_leaf_type(kind) or (allow_mutable and _is_plain_array(obj, kind))


cdef bint _spend(Py_ssize_t count, int depth, Py_ssize_t* budget) noexcept:
    budget[0] -= count
    return depth > 0 and budget[0] >= 0


cdef bint _walk_tuple(
    tuple items, int depth, bint allow_mutable, Py_ssize_t* budget
) noexcept:
    cdef Py_ssize_t i
    if not _spend(len(items), depth, budget):
        return False
    for i in range(len(items)):
        if not _walk(items[i], depth - 1, allow_mutable, budget):
            return False
    return True


cdef bint _walk_list(list items, int depth, Py_ssize_t* budget) noexcept:
    cdef Py_ssize_t i
    if not _spend(len(items), depth, budget):
        return False
    for i in range(len(items)):
        if not _walk(items[i], depth - 1, True, budget):
            return False
    return True


cdef bint _walk_dict(dict items, int depth, Py_ssize_t* budget) noexcept:
    cdef Py_ssize_t position = 0
    cdef PyObject* key = NULL
    cdef PyObject* value = NULL
    if not _spend(2 * len(items), depth, budget):
        return False
    while PyDict_Next(items, &position, &key, &value):
        if not _walk(<object>key, depth - 1, True, budget):
            return False
        if not _walk(<object>value, depth - 1, True, budget):
            return False
    return True


cdef bint _walk_set(
    object items, int depth, bint allow_mutable, Py_ssize_t* budget
) noexcept:
    if not _spend(len(items), depth, budget):
        return False
    for item in items:
        if not _walk(item, depth - 1, allow_mutable, budget):
            return False
    return True


cdef bint _is_leaf_type(object kind) noexcept:
    if type(kind) is not type:  # a metaclass may define __hash__ in Python
        return False
    if PySet_Contains(LEAF_TYPES, kind):
        return True
    if NDARRAY is not None or "numpy" not in sys.modules:
        return False
    try:
        _learn_numpy(sys.modules["numpy"])
    except Exception:  # half imported by another thread: ask again next time
        return False
    return PySet_Contains(LEAF_TYPES, kind)


cdef bint _is_plain_array(object obj, object kind) noexcept:
    if kind is not NDARRAY:
        return False
    dtype = obj.dtype
    return dtype.kind in ARRAY_KINDS and dtype.metadata is None


def _learn_numpy(numpy):
    global NDARRAY
    scalars = {numpy.dtype(code).type for code in numpy.typecodes["All"]}
    # object_ and void may hold Python objects
    LEAF_TYPES.update(scalars - {numpy.object_, numpy.void})
    NDARRAY = numpy.ndarray
