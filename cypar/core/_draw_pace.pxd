"""How many tasks thread workers draw at a time."""

from libc.stdint cimport int64_t


cdef class DrawPace:
    cdef readonly Py_ssize_t size     # batches of pre_dispatch tasks to draw ahead
    cdef Py_ssize_t pre_dispatch
    cdef Py_ssize_t n_finished        # tasks that were finished at the last update
    cdef int64_t updated_ns           # time of the last update; 0 = none
    cdef double draw_ns               # time that drawing one task took

    cdef bint is_due(self, Py_ssize_t n_finished) noexcept
    cdef Py_ssize_t update(self, Py_ssize_t n_finished, int64_t now_ns) noexcept
    cdef void drew(self, Py_ssize_t n_tasks, int64_t spent_ns) noexcept
