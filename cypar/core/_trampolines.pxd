"""The other `cdef extern` of the project: what _trampolines.h offers.

Apart from _port.pxd since it is some 3,000 generated functions, for one module.
"""


cdef extern from "_trampolines.h" nogil:
    # A function (void* fn, const Slot* arguments, Slot* result), see _packing.pxd;
    # NULL if there is none. Types are named by the fields of Slot, v is void.
    void* trampoline_find(char result, const char* args, int n_args) noexcept
