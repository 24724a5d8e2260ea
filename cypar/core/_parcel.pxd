"""What one captured task needs of shared memory."""


cdef class Parcel:
    cdef readonly list pieces          # (kind, Segment or bytes, number, offset, size)
    cdef readonly list shares          # Shared objects
    cdef object __weakref__
