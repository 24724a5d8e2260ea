"""Tell plain data from objects whose pickling needs care.

Only exact types count: a subclass may carry anything. The walk is bounded in depth and
in number of objects, so that a self-containing list or a huge one costs little; what is
over the bound is "not plain", which callers must treat as "unknown".

Large buffers are another question: callers that do not want them in a pickle give the
sizes above which an array or a string of bytes does not count.

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


cdef struct Bounds:
    Py_ssize_t n_objects     # that may still be looked at
    Py_ssize_t array_bytes   # of an array at most; -1 for no bound
    Py_ssize_t string_bytes  # of bytes and bytearray at most


cpdef bint is_immutable(object obj, Py_ssize_t max_string=-1) noexcept:
    """Tell whether ``obj`` is deeply immutable plain data.

    True only for exact None, bool, int, float, complex, str, bytes, range, Ellipsis
    and NumPy scalars, and for tuples and frozensets of these up to 6 levels deep.
    False also means "too large to find out".
    """
    cdef Bounds bounds
    bounds.n_objects = MAX_OBJECTS
    bounds.array_bytes = -1
    bounds.string_bytes = max_string
    return _walk(obj, MAX_DEPTH, False, &bounds)


cpdef bint is_plain(
    object obj, Py_ssize_t max_array=-1, Py_ssize_t max_string=-1
) noexcept:
    """Tell whether the C pickler alone gives the right bytes for ``obj``.

    True for what `is_immutable` accepts and for bytearray, list, dict, set and NumPy
    arrays of numbers, dates or text, nested up to 6 levels deep. With ``max_array``,
    arrays of more bytes, read-only ones, ones in the other byte order and views of
    memory that NumPy does not own do not count.
    """
    cdef Bounds bounds
    bounds.n_objects = MAX_OBJECTS
    bounds.array_bytes = max_array
    bounds.string_bytes = max_string
    return _walk(obj, MAX_DEPTH, True, &bounds)


cdef bint _walk(
    object obj, int depth, bint allow_mutable, Bounds* bounds
) noexcept:
    cdef object kind = type(obj)
    # The commonest types first, by pointer; the set lookup costs 10 ns.
    if kind is int or kind is float or kind is str or obj is None:
        return True
    if kind is bytes:
        return bounds.string_bytes < 0 or len(<bytes>obj) < bounds.string_bytes
    if kind is tuple:
        return _walk_tuple(<tuple>obj, depth, allow_mutable, bounds)
    if allow_mutable:
        if kind is list:
            return _walk_list(<list>obj, depth, bounds)
        if kind is dict:
            return _walk_dict(<dict>obj, depth, bounds)
        if kind is set or kind is frozenset:
            return _walk_set(obj, depth, True, bounds)
        if kind is bytearray:
            return bounds.string_bytes < 0 or len(obj) < bounds.string_bytes
    elif kind is frozenset:
        return _walk_set(obj, depth, False, bounds)
    return _is_leaf_type(kind) or (
        allow_mutable and _is_plain_array(obj, kind, bounds.array_bytes)
    )


cdef bint _spend(Py_ssize_t count, int depth, Bounds* bounds) noexcept:
    bounds.n_objects -= count
    return depth > 0 and bounds.n_objects >= 0


cdef bint _walk_tuple(
    tuple items, int depth, bint allow_mutable, Bounds* bounds
) noexcept:
    cdef Py_ssize_t i
    if not _spend(len(items), depth, bounds):
        return False
    for i in range(len(items)):
        if not _walk(items[i], depth - 1, allow_mutable, bounds):
            return False
    return True


cdef bint _walk_list(list items, int depth, Bounds* bounds) noexcept:
    cdef Py_ssize_t i
    if not _spend(len(items), depth, bounds):
        return False
    for i in range(len(items)):
        if not _walk(items[i], depth - 1, True, bounds):
            return False
    return True


cdef bint _walk_dict(dict items, int depth, Bounds* bounds) noexcept:
    cdef Py_ssize_t position = 0
    cdef PyObject* key = NULL
    cdef PyObject* value = NULL
    if not _spend(2 * len(items), depth, bounds):
        return False
    while PyDict_Next(items, &position, &key, &value):
        if not _walk(<object>key, depth - 1, True, bounds):
            return False
        if not _walk(<object>value, depth - 1, True, bounds):
            return False
    return True


cdef bint _walk_set(
    object items, int depth, bint allow_mutable, Bounds* bounds
) noexcept:
    if not _spend(len(items), depth, bounds):
        return False
    for item in items:
        if not _walk(item, depth - 1, allow_mutable, bounds):
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


cdef bint _is_plain_array(object obj, object kind, Py_ssize_t max_bytes) noexcept:
    if kind is not NDARRAY:
        return False
    dtype = obj.dtype
    if dtype.kind not in ARRAY_KINDS or dtype.metadata is not None:
        return False
    if max_bytes < 0:
        return True
    if obj.nbytes > max_bytes or not dtype.isnative or not obj.flags.writeable:
        return False  # the pickle of NumPy would change byte order or flag
    base = obj.base
    while type(base) is NDARRAY:
        base = base.base
    return base is None  # else it may be a view of a file


def _learn_numpy(numpy):
    global NDARRAY
    scalars = {numpy.dtype(code).type for code in numpy.typecodes["All"]}
    # object_ and void may hold Python objects
    LEAF_TYPES.update(scalars - {numpy.object_, numpy.void})
    NDARRAY = numpy.ndarray
