# core/_plain.pxd: what can travel without asking Python code. Neither function runs
# Python code, keeps a reference or fails: a doubt is answered with False.

# None, bool, int, float, complex, str, bytes, range, Ellipsis, NumPy scalars, and
# tuples and frozensets of these: can be pickled later with the same result.
cpdef bint is_immutable(object obj, Py_ssize_t max_string=*) noexcept

# The same plus bytearray, list, dict, set and NumPy arrays of numbers or text, nested
# a few levels deep: the C pickler alone pickles it, and any worker can load it.
# Arrays and byte strings above the two bounds do not count, if bounds are given.
cpdef bint is_plain(
    object obj, Py_ssize_t max_array=*, Py_ssize_t max_string=*
) noexcept
