# core/_watch.pxd: tell cheaply whether a function still has what it was pickled with.

cdef class Watch:
    # The watched function: itself, or a weak reference if is_weak.
    cdef object owner
    cdef bint is_weak
    # (function, code, defaults, kwdefaults, number of attributes) for each function
    # that was pickled by value; ROOT as function stands for the owner.
    cdef tuple functions
    cdef tuple cells        # (cell, value or ROOT or MISSING)
    cdef tuple names        # (dict, key, value or ROOT or MISSING)
    cdef tuple sizes        # (dict, number of keys)
    cdef readonly object payload  # what the owner was turned into

    cpdef bint holds(self, object function) except -1
