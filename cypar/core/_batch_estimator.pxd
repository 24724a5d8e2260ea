"""How many tasks make a good batch."""


cdef class BatchEstimator:
    cdef readonly double dispatch_seconds  # what one more batch costs the parent
    cdef readonly double task_seconds      # smoothed time of one task; 0.0 = none seen
    cdef double longest                    # decaying maximum of batch means, seconds
    cdef readonly Py_ssize_t size          # tasks in the next batch, >= 1
    cdef readonly Py_ssize_t n_observed    # tasks seen

    cdef Py_ssize_t update(self, Py_ssize_t n_tasks, double seconds) noexcept nogil
