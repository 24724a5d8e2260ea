"""The contract between one call and a backend, and the base class for users.

`Backend` is what cypar's own backends implement; its only entry is `run(call)`.
`ParallelBackendBase` is what user-written backends subclass: the method names
that programs know from joblib. `cypar.backends.foreign` drives these.
"""

from __future__ import annotations


class CallOptions:
    """What a backend may know about one call; never changed once made.

    Attributes
    ----------
    n_jobs : int
        Effective maximum of tasks that run at once, at least 1.
    batch_size : int
        Tasks per dispatch; 0 means 'auto'.
    pre_dispatch : int
        Batches that may be drawn and not finished; 0 means all of the input.
    explicit_pre_dispatch : bool
        The caller chose ``pre_dispatch``: 'auto' batches then grow late.
    timeout_s : float or None
        Seconds one task may run, from its start.
    max_nbytes, temp_folder, mmap_mode
        Memory mapping of large arrays; process backends only.
    inner_max_num_threads : int or None
        Threads that BLAS and OpenMP may use inside one task.
    nesting_level : int
        Level of the tasks; the outermost call has tasks of level 1.
    on_error : {'raise', 'return'}
        `Outcomes.put_error` acts on it.
    retries : int
        How often a task is started again after its worker died.
    worker_life : WorkerLife or None
        How worker processes begin and when they are replaced.
    verbose : int or float
    """

    __slots__ = (
        "batch_size",
        "explicit_pre_dispatch",
        "inner_max_num_threads",
        "max_nbytes",
        "mmap_mode",
        "n_jobs",
        "nesting_level",
        "on_error",
        "pre_dispatch",
        "retries",
        "temp_folder",
        "timeout_s",
        "verbose",
        "worker_life",
    )

    def __init__(
        self,
        n_jobs,
        batch_size=0,
        pre_dispatch=0,
        explicit_pre_dispatch=False,
        timeout_s=None,
        max_nbytes=None,
        temp_folder=None,
        mmap_mode="r",
        inner_max_num_threads=None,
        nesting_level=1,
        on_error="raise",
        retries=0,
        verbose=0,
        worker_life=None,
    ):
        self.n_jobs = n_jobs
        self.batch_size = batch_size
        self.pre_dispatch = pre_dispatch
        self.explicit_pre_dispatch = explicit_pre_dispatch
        self.timeout_s = timeout_s
        self.max_nbytes = max_nbytes
        self.temp_folder = temp_folder
        self.mmap_mode = mmap_mode
        self.inner_max_num_threads = inner_max_num_threads
        self.nesting_level = nesting_level
        self.on_error = on_error
        self.retries = retries
        self.worker_life = worker_life
        self.verbose = verbose


class Backend:
    """Where tasks run. A backend never sees `Parallel`, only the call.

    Attributes
    ----------
    name : str
        What users write in ``backend=``.
    label : str
        What the first verbose line calls it.
    supports_sharedmem : bool
        Tasks share the caller's objects.
    supports_timeout : bool
    is_foreign : bool
        The backend must be used even for one job.
    param_names : tuple of str
        Parameters that `parse_params` takes.
    """

    param_names = ()

    name = "backend"
    label = "Backend"
    supports_sharedmem = False
    supports_timeout = True
    is_foreign = False

    def effective_n_jobs(self, n_jobs):
        """Number of tasks that will run at once for the ``n_jobs`` asked for."""
        raise NotImplementedError

    def run(self, call):
        """Run ``call`` to its end.

        Returns when every drawn task has one outcome, or when ``call.stopping`` is
        set and what still runs can no longer change the call. Raises only for a
        failure of the backend itself.
        """
        raise NotImplementedError

    def prepare(self, options):
        """Get ready for a call, in the caller's thread, before `run`.

        `run` is called in another thread when results come as a generator.
        """

    def abandon(self, options):
        """Undo `prepare` if `run` has not come: the call was stopped before."""

    def warm_up(self, options):
        """Start the workers that calls with these options need, if it has any."""

    def open(self, options):
        """Enter a with-block of `Parallel`; ``options`` are those of its calls."""

    def close(self):
        """Leave a with-block of `Parallel`."""


class ParallelBackendBase:
    """Base class of user-written backends (experimental).

    A backend must have `effective_n_jobs`, and either `apply_async` or `submit`
    with `retrieve_result_callback`. All other methods have usable defaults. A
    class that does not subclass this one and has these methods works as well.

    Examples
    --------
    >>> from cypar import ParallelBackendBase, register_parallel_backend
    >>> class Remote(ParallelBackendBase):
    ...     def __init__(self, endpoint):
    ...         self.endpoint = endpoint
    ...     def effective_n_jobs(self, n_jobs):
    ...         return 1
    >>> register_parallel_backend("remote", Remote)
    """

    supports_inner_max_num_threads = False
    supports_retrieve_callback = False
    supports_return_generator = False
    supports_sharedmem = False
    supports_timeout = False
    uses_threads = False
    default_n_jobs = 1
    nesting_level = None
    parallel = None
    inner_max_num_threads = None

    def __init__(self, nesting_level=None, inner_max_num_threads=None, **params):
        self.nesting_level = nesting_level
        self.inner_max_num_threads = inner_max_num_threads
        self.backend_kwargs = params

    def effective_n_jobs(self, n_jobs):
        """Return how many tasks run at once for the ``n_jobs`` asked for."""
        raise NotImplementedError(
            f"{type(self).__name__} must define effective_n_jobs(n_jobs)"
        )

    def apply_async(self, func, callback=None):
        """Schedule ``func()``; call ``callback(result)`` when it is done."""
        raise NotImplementedError(
            f"{type(self).__name__} must define submit(func, callback) or "
            "apply_async(func, callback)"
        )

    def configure(self, n_jobs=1, parallel=None, prefer=None, require=None, **params):
        """Get ready for calls; returns the effective number of jobs."""
        self.parallel = parallel
        return self.effective_n_jobs(n_jobs)

    def start_call(self):
        """Run before the first task of a call."""

    def stop_call(self):
        """Run after the last task of a call."""

    def terminate(self):
        """Free the workers; the backend may be configured again."""

    def compute_batch_size(self):
        """Return the number of tasks for the next batch."""
        return 1

    def batch_completed(self, batch_size, duration):
        """Take note of a finished batch of ``batch_size`` tasks, in seconds."""

    def abort_everything(self, ensure_ready=True):
        """Cancel what runs; with ``ensure_ready``, be usable again afterwards."""

    def get_nested_backend(self):
        """Return (backend, n_jobs) for calls made inside tasks, or None."""
        return None
