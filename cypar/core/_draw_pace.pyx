"""Choose how far ahead of the workers the input is drawn, for thread workers.

Drawing a task holds the GIL. A worker that comes back from GIL-free work just then
goes to sleep and is woken 5-50 us later, so what counts is how often the GIL is
taken, not for how long: with tasks of a few microseconds one draw per task costs a
fifth of the time of two cores. While tasks are short they are therefore drawn in
bursts, each as long as the window, and still claimed one at a time.

The window lasts ``WINDOW_NS`` at most, so for tasks of a millisecond it stays what
``pre_dispatch`` says; and a burst never takes longer than ``BURST_NS``, so a slow
iterator is never asked for more than the workers need.

Thread safety: used under the GIL by the thread that holds the ``drawing`` flag.
"""

cdef double WINDOW_NS = 2e6
cdef double BURST_NS = 200e3
cdef Py_ssize_t MAX_WINDOW = 1024  # tasks; more of them leave the cache
cdef Py_ssize_t MAX_GROWTH = 4
cdef Py_ssize_t MIN_SAMPLE = 16    # finished tasks between two looks at the clock


cdef class DrawPace:
    """Pick the window, in batches of ``pre_dispatch`` tasks.

    Parameters
    ----------
    pre_dispatch : int
        Tasks that may be drawn ahead while nothing is known.

    Examples
    --------
    >>> from cypar.core._draw_pace import DrawPace
    >>> pace = DrawPace(4)
    >>> [pace.observe(n, n * 1000) for n in (1, 101, 201, 301, 401)]
    [1, 4, 16, 64, 256]
    """

    def __cinit__(self, Py_ssize_t pre_dispatch):
        if pre_dispatch < 1:
            raise ValueError(f"pre_dispatch must be at least 1, got {pre_dispatch}")
        self.pre_dispatch = pre_dispatch
        self.size = 1

    def observe(self, Py_ssize_t n_finished, int64_t now_ns):
        """Note that ``n_finished`` tasks are finished at ``now_ns``; the new size."""
        return self.update(n_finished, now_ns)

    def observe_draw(self, Py_ssize_t n_tasks, int64_t spent_ns):
        """Note that drawing ``n_tasks`` tasks took ``spent_ns``."""
        self.drew(n_tasks, spent_ns)

    # ---- no Python objects below this line ----------------------------------

    cdef bint is_due(self, Py_ssize_t n_finished) noexcept:
        return n_finished - self.n_finished >= MIN_SAMPLE or self.updated_ns == 0

    cdef Py_ssize_t update(self, Py_ssize_t n_finished, int64_t now_ns) noexcept:
        cdef double task_ns, most
        if self.updated_ns != 0 and n_finished > self.n_finished:
            task_ns = (<double>(now_ns - self.updated_ns)
                       / (n_finished - self.n_finished))
            most = min(<double>MAX_WINDOW, WINDOW_NS / max(task_ns, 1.0))
            most = min(most, BURST_NS / max(self.draw_ns, 1.0)) / self.pre_dispatch
            self.size = max(1, min(<Py_ssize_t>most, MAX_GROWTH * self.size))
        self.updated_ns = now_ns
        self.n_finished = n_finished
        return self.size

    cdef void drew(self, Py_ssize_t n_tasks, int64_t spent_ns) noexcept:
        if n_tasks > 0:
            self.draw_ns = <double>spent_ns / n_tasks
