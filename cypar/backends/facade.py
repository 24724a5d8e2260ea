"""What a backend of somebody else's sees as ``self.parallel``."""

from __future__ import annotations

import sys
import uuid


class Facade:
    """The attributes of a `Parallel` object that backends written for joblib read.

    Attributes
    ----------
    n_jobs : int
        Effective number of jobs.
    batch_size : int or 'auto'
    pre_dispatch : int or 'all'
        In batches.
    timeout : float or None
        In seconds.
    verbose : int or float
    return_as : str
    return_generator : bool
    _backend : object
        The backend itself.
    _backend_kwargs, _backend_args : dict
        What `configure` was called with, beside ``n_jobs`` and ``parallel``: backends
        that start again after an abort call it with them once more.
    _id : str
        Another one for each time the backend is configured.
    """

    return_as = "list"
    return_generator = False

    def __init__(self, backend, options):
        self.n_jobs = options.n_jobs
        self.batch_size = options.batch_size or "auto"
        self.pre_dispatch = options.pre_dispatch or "all"
        self.timeout = options.timeout_s
        self.verbose = options.verbose
        self._backend = backend
        self._id = uuid.uuid4().hex
        self._backend_kwargs = self._backend_args = {
            "max_nbytes": options.max_nbytes,
            "mmap_mode": options.mmap_mode,
            "temp_folder": options.temp_folder,
            "prefer": None,
            "require": None,
            "verbose": self.verbose,
        }

    def _effective_n_jobs(self):
        return self.n_jobs

    def _print(self, message, *arguments):
        """Print a message of the backend's, where progress messages go."""
        if self.verbose > 0:
            text = message % arguments if arguments else message
            stream = sys.stdout if self.verbose >= 50 else sys.stderr
            print(f"[{self!r}]: {text}", file=stream)

    def __repr__(self):
        return f"Parallel(n_jobs={self.n_jobs})"
