"""What a PyCapsule holds, as Python integers and text.

Thread safety: GIL.
"""

from cpython.pycapsule cimport (
    PyCapsule_GetContext, PyCapsule_GetName, PyCapsule_GetPointer,
)
from libc.stdint cimport uintptr_t


def capsule_name(capsule):
    """The name of a capsule, which Cython and scipy use for the signature; or ''."""
    cdef const char* name = PyCapsule_GetName(capsule)
    return "" if name == NULL else (<bytes>name).decode()


def capsule_pointer(capsule):
    """The address that a capsule holds."""
    return <uintptr_t>PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule))


def capsule_context(capsule):
    """The second address that a capsule may hold, 0 if it does not."""
    return <uintptr_t>PyCapsule_GetContext(capsule)
