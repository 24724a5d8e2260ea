"""Tell whether plain data is unchanged, without pickling it, and copy it.

A snapshot is a list of all objects in a structure of exact dicts, lists, sets and
tuples whose leaves are immutable. The structure is unchanged if a walk meets the very
same objects, and containers of the same sizes: what is mutable is walked, and what is
immutable cannot differ. Strong references see to it that no address is used again.

A dict of 200,000 tuples takes 51 ms to pickle and 1.2 ms to check; as many to load
and 6 ms to copy.

Thread safety: GIL. Nothing here runs Python code but the iteration over exact sets.
"""

from cpython.dict cimport PyDict_Copy, PyDict_Next
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF

from cypar.core._plain cimport is_immutable

cdef int MAX_DEPTH = 50
cdef Py_ssize_t MAX_ITEMS = 1 << 23  # 128 MB; pickling so much takes seconds


cdef class Snapshot:
    """The objects of a structure, and ``payload``, what was made of it.

    Parameters
    ----------
    obj : object
    payload : object

    Raises
    ------
    ValueError
        If ``obj`` is not plain data that can be watched.

    Examples
    --------
    >>> data = {"a": [1, 2], "b": (3, "x")}
    >>> snapshot = Snapshot(data, None)
    >>> snapshot.holds(data)
    True
    >>> data["a"][0] = 5
    >>> snapshot.holds(data)
    False
    """

    def __init__(self, obj, payload):
        if self.n or not self.record(obj, MAX_DEPTH):
            raise ValueError("not only dicts, lists, sets and tuples of immutable data")
        self.payload = payload

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.n):
            Py_XDECREF(self.items[i].obj)
        PyMem_Free(self.items)

    cdef bint push(self, object obj, Py_ssize_t size) except -1:
        cdef Item* items
        if self.n == self.capacity:
            if self.n >= MAX_ITEMS:
                return False
            self.capacity = max(64, 2 * self.capacity)
            items = <Item*>PyMem_Realloc(self.items, self.capacity * sizeof(Item))
            if items == NULL:
                raise MemoryError()
            self.items = items
        Py_INCREF(obj)  # given back by __dealloc__
        self.items[self.n].obj = <PyObject*>obj
        self.items[self.n].size = size
        self.n += 1
        return True

    cdef bint record(self, object obj, int depth) except -1:
        """Append an object and what is in it; False if it cannot be watched."""
        cdef Py_ssize_t i = 0
        cdef PyObject* key = NULL
        cdef PyObject* value = NULL
        cdef object kind = type(obj)
        if is_immutable(obj):
            return self.push(obj, -1)
        if depth == 0:
            return False
        if kind is dict:
            if not self.push(obj, len(<dict>obj)):
                return False
            while PyDict_Next(<dict>obj, &i, &key, &value):
                if not is_immutable(<object>key) or not self.push(<object>key, -1):
                    return False
                if not self.record(<object>value, depth - 1):
                    return False
            return True
        if kind is list:
            if not self.push(obj, len(<list>obj)):
                return False
            for i in range(len(<list>obj)):
                if not self.record((<list>obj)[i], depth - 1):
                    return False
            return True
        if kind is tuple:
            if not self.push(obj, len(<tuple>obj)):
                return False
            for i in range(len(<tuple>obj)):
                if not self.record((<tuple>obj)[i], depth - 1):
                    return False
            return True
        if kind is set or kind is frozenset:
            if not self.push(obj, len(obj)):
                return False
            for item in obj:
                if not is_immutable(item) or not self.push(item, -1):
                    return False
            return True
        return False

    def holds(self, obj):
        """Tell whether this is the recorded object and nothing in it has changed."""
        cdef Py_ssize_t place = 0
        return self.check(obj, &place) and place == self.n

    cdef bint check(self, object obj, Py_ssize_t* place) except -1:
        cdef Py_ssize_t i = 0, size
        cdef PyObject* key = NULL
        cdef PyObject* value = NULL
        cdef object kind
        if place[0] >= self.n or self.items[place[0]].obj != <PyObject*>obj:
            return False
        size = self.items[place[0]].size
        place[0] += 1
        if size < 0:
            return True
        kind = type(obj)
        if kind is dict:
            if len(<dict>obj) != size:
                return False
            while PyDict_Next(<dict>obj, &i, &key, &value):
                if place[0] >= self.n or self.items[place[0]].obj != key:
                    return False
                place[0] += 1
                if not self.check(<object>value, place):
                    return False
        elif kind is list:
            if len(<list>obj) != size:
                return False
            for i in range(size):
                if not self.check((<list>obj)[i], place):
                    return False
        elif kind is tuple:
            for i in range(size):
                if not self.check((<tuple>obj)[i], place):
                    return False
        else:
            if len(obj) != size:
                return False
            for item in obj:
                if not self.check(item, place):
                    return False
        return True


def copy_plain(obj):
    """Copy plain data such that no change of the copy reaches the original.

    Objects that cannot change are shared; a container that occurs twice in the original
    occurs twice in the copy.

    Parameters
    ----------
    obj : object
        Anything that a `Snapshot` can be made of.

    Examples
    --------
    >>> inner = [1, 2]
    >>> a = {"x": inner, "y": (inner, "text")}
    >>> b = copy_plain(a)
    >>> b == a, b["x"] is inner, b["x"] is b["y"][0]
    (True, False, True)
    """
    return copied(obj, {}, True)


cdef inline object copied_item(PyObject* item, dict seen):
    # only the container refers to it: it occurs once
    return copied(<object>item, seen, item.ob_refcnt > 1)


cdef object copied(object obj, dict seen, bint may_occur_again):
    cdef Py_ssize_t i = 0
    cdef PyObject* key = NULL
    cdef PyObject* value = NULL
    cdef object kind = type(obj)
    cdef object new
    if kind is not dict and kind is not list and is_immutable(obj):
        return obj
    if may_occur_again:
        known = seen.get(id(obj))
        if known is not None:
            return known
    if kind is dict:
        if all_immutable(<dict>obj):
            new = PyDict_Copy(<dict>obj)
        else:
            new = {}
            while PyDict_Next(<dict>obj, &i, &key, &value):
                (<dict>new)[<object>key] = copied_item(value, seen)
    elif kind is list:
        new = list(<list>obj)
        for i in range(len(<list>new)):
            item = (<list>obj)[i]
            if not is_immutable(item):
                # both lists and this variable refer to it
                again = (<PyObject*>item).ob_refcnt > 3
                (<list>new)[i] = copied(item, seen, again)
    elif kind is tuple:
        new = tuple([copied(item, seen, True) for item in <tuple>obj])
    elif kind is set:
        new = set(obj)
    elif kind is frozenset:
        new = obj  # its elements cannot change either
    else:
        raise TypeError(f"no plain data: {kind}")
    if may_occur_again:
        seen[id(obj)] = new
    return new


cdef bint all_immutable(dict mapping) except -1:
    cdef Py_ssize_t i = 0
    cdef PyObject* key = NULL
    cdef PyObject* value = NULL
    while PyDict_Next(mapping, &i, &key, &value):
        if not is_immutable(<object>value):
            return False
    return True
