"""`Parallel`: check the arguments, start one run, hand back the results.

::

    Parallel(...)(iterable)
        n_jobs=1:  a compiled loop in the caller, no parallel code at all
        else:      Call (core) -> Backend.run (backends) -> list or generator (results)
"""

from __future__ import annotations

from cypar import arguments, resolution
from cypar.backends.base import CallOptions
from cypar.backends.sequential import SequentialBackend
from cypar.core import config_state
from cypar.core._helper_threads import is_shutting_down
from cypar.core._task_queue import LIST, ORDERED, UNORDERED, Call
from cypar.core._worker_loop import run_serial
from cypar.core.errors import attach_completed
from cypar.pre_dispatch import check_pre_dispatch, parse_pre_dispatch
from cypar.progress import ProgressPrinter
from cypar.results import ResultGenerator, SerialCall, SerialGenerator

DEFAULT_PRE_DISPATCH = "2 * n_jobs"
RETURN_AS = {"list": LIST, "generator": ORDERED, "generator_unordered": UNORDERED}


class Parallel:
    """Readable parallel loops: ``Parallel(n_jobs=2)(delayed(f)(x) for x in xs)``.

    Parameters
    ----------
    n_jobs : int or None, default=None
        How many tasks may run at once. -1 means all CPUs, -2 all but one, and so on.
        1 runs the loop in the caller with no parallel code. None means 1, unless a
        `parallel_config` around the call says otherwise.
    backend : str, Backend, ParallelBackendBase, Executor or None, default=None
        Where tasks run: 'processes' (the default; also 'loky'), 'threading',
        'multiprocessing', 'sequential', or anything registered.
    verbose : int, default=0
        Progress messages: more with higher values, every task above 10, to stdout
        from 50 on.
    timeout : float or None, default=None
        Seconds that one task may run, counted from its start.
    pre_dispatch : {'all', int, str}, default='2 * n_jobs'
        Batches that are drawn from the input and not finished; a string is
        arithmetic over ``n_jobs``.
    batch_size : int or 'auto', default='auto'
        Tasks per dispatch.
    temp_folder : str or None, default=None
        Folder for large arrays that worker processes map.
    max_nbytes : int, str or None, default='1M'
        Arrays larger than this are mapped, not pickled. None turns that off.
    mmap_mode : {None, 'r', 'r+', 'w+', 'c'}, default='r'
        How workers map them.
    prefer : {'processes', 'threads', None}, default=None
        Hint that a `parallel_config` around the call may overrule.
    require : {'sharedmem', None}, default=None
        'sharedmem' runs tasks on threads whatever else was chosen.
    return_as : {'list', 'generator', 'generator_unordered'}, default='list'
        'generator' gives results in order as they come; 'generator_unordered' in the
        order in which they finish. At most 1,000 results or 64 MB wait unread.
    on_error : {'raise', 'return'}, default='raise'
        What a task does to the call that fails: raises an exception, takes its worker
        process with it, runs longer than ``timeout``, or cannot be sent. 'raise' ends
        the call with an exception that knows the task (``task_index``,
        ``task_function``, ``task_arguments``) and the other results that are there
        (``completed``, by index). 'return' puts a `TaskError` in the result's place
        and goes on.
    retries : int, default=0
        How often a task is started again after its worker process died.
    initializer : callable or None, default=None
        Called as ``initializer(*initargs)`` in every new worker process before its
        first task; with ``n_jobs=1`` in the caller, before the loop. Workers that
        have called another one, or none, are not used. For 'processes' only, like
        the next three. A global that it sets in ``__main__`` is not seen by tasks:
        functions of a script travel by value, each with globals of its own. Let it
        set an attribute of a module that workers import, or put the functions there.
    initargs : tuple, default=()
    max_tasks_per_worker : int or None, default=None
        Tasks after which a worker process is replaced.
    max_worker_memory : int, str or None, default=None
        Memory of its own, in bytes or as in '1.5G', above which a worker process is
        replaced once its batch is done; shared and mapped memory does not count.

    Raises
    ------
    ValueError
        If an argument has no meaning, or two of them contradict each other.

    Examples
    --------
    >>> from math import sqrt
    >>> from cypar import Parallel, delayed
    >>> Parallel(n_jobs=2)(delayed(sqrt)(i ** 2) for i in range(10))
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    """

    def __init__(
        self,
        n_jobs=None,
        backend=None,
        verbose=resolution.VERBOSE,
        timeout=None,
        pre_dispatch=DEFAULT_PRE_DISPATCH,
        batch_size="auto",
        temp_folder=None,
        max_nbytes=resolution.MAX_NBYTES,
        mmap_mode=resolution.MMAP_MODE,
        prefer=None,
        require=None,
        *,
        return_as="list",
        inner_max_num_threads=None,
        on_error=resolution.ON_ERROR,
        retries=resolution.RETRIES,
        initializer=None,
        initargs=(),
        max_tasks_per_worker=None,
        max_worker_memory=None,
    ):
        if is_shutting_down():
            backend = SequentialBackend()  # nothing can be imported or started now
        self._resolved = resolution.resolve(
            backend,
            n_jobs,
            verbose,
            temp_folder,
            max_nbytes,
            mmap_mode,
            prefer,
            require,
            inner_max_num_threads,
            on_error,
            retries,
        )
        self._backend = self._resolved.backend
        self._is_foreign = getattr(self._backend, "is_foreign", False)
        self._worker_life = resolution.worker_life(
            self._resolved,
            initializer=initializer,
            initargs=initargs or None,
            max_tasks_per_worker=max_tasks_per_worker,
            max_worker_memory=max_worker_memory,
        )
        self.n_jobs = self._resolved.n_jobs
        self.verbose = self._resolved.verbose
        self.on_error = self._resolved.on_error
        self.retries = self._resolved.retries
        self.timeout = arguments.parse_timeout(timeout)
        self.pre_dispatch = pre_dispatch
        self.batch_size = batch_size
        self._batch_size = arguments.parse_batch_size(batch_size)
        if return_as not in RETURN_AS:
            raise ValueError(
                f"return_as must be one of {', '.join(map(repr, RETURN_AS))}, got "
                f"{arguments.shown(return_as)}"
            )
        self.return_as = return_as
        self.return_generator = return_as != "list"
        check_pre_dispatch(pre_dispatch)  # bad values fail here, not at the call
        self._opened = False
        self._call = None
        self._progress = None
        self._finished = self._dispatched = 0  # of the last call

    # ---- calls -------------------------------------------------------------------

    def __call__(self, iterable):
        """Run all tasks of ``iterable``.

        Parameters
        ----------
        iterable : iterable of (function, args, kwargs)
            Written with `delayed`. A generator is consumed lazily.

        Returns
        -------
        list, or generator if ``return_as`` says so
            The results, in the order of the input unless 'generator_unordered'.
        """
        if self._call is not None:
            raise RuntimeError(
                "this Parallel object is already running a call: wait for it, close "
                "its generator, or use another Parallel object"
            )
        iterator = iter(iterable)
        n_jobs = self._start_backend()
        self._progress = self._make_progress(iterable)
        if n_jobs == 1 and not self._is_foreign:
            return self._run_serial(iterator)
        return self._run(iterator, n_jobs)

    def _start_backend(self):
        """Return the effective number of jobs of this call."""
        if is_shutting_down():
            return 1  # nothing new is started any more
        if self.n_jobs == 1 and not self._is_foreign:
            return 1
        return self._backend.effective_n_jobs(self.n_jobs)

    def _make_progress(self, iterable):
        if not self.verbose > 0:
            return None
        try:
            length = len(iterable)
        except Exception:
            length = None
        return ProgressPrinter(repr(self), self.verbose, length)

    def _has_progress(self):
        # programs replace print_progress to drive a bar of their own
        return (
            self._progress is not None
            or type(self).print_progress is not Parallel.print_progress
            or "print_progress" in self.__dict__
        )

    def _run_serial(self, iterator):
        call = self._call = SerialCall()
        self._initialize_caller()
        hook = self.print_progress if self._has_progress() else None
        keep_errors = self.on_error == "return"
        if self.return_generator:
            return SerialGenerator(call, iterator, hook, self._end_serial, keep_errors)
        try:
            results = run_serial(iterator, call.results, hook, keep_errors)
            call.ended = True
            return results
        finally:
            self._end_serial(call)

    def _initialize_caller(self):
        """Call the initializer here: the caller is the only worker."""
        life = self._worker_life
        if life is not None and life.initializer is not None:
            try:
                life.initializer(*life.initargs)
            except BaseException:
                self._call = None
                raise

    def _end_serial(self, call):
        if self._call is call:
            self._call = None
        self._finished = call.n_finished
        self._dispatched = call.n_finished
        if self._progress is not None and call.ended:
            self._progress.finished(self._finished)

    def _run(self, iterator, n_jobs):
        options = self._make_options(n_jobs)
        call = self._make_call(iterator, options)
        if self._progress is not None:
            self._progress.started(self._backend.label, n_jobs)
        self._call = call
        try:
            self._backend.prepare(options)
            if self.return_generator:
                generator = ResultGenerator(call, self._backend, self._end_call)
                call = None  # it ends the call
                return generator
            return self._run_list(call)
        except BaseException:
            if call is not None:  # Ctrl-C before the generator was there, say
                call.stop("abort")
                self._backend.abandon(options)
            raise
        finally:
            if call is not None:
                self._end_call(call)

    def _run_list(self, call):
        try:
            self._backend.run(call)
        except BaseException as exc:
            call.stop("abort")
            call.finish()
            attach_completed(exc, call.outcomes.completed())
            raise
        call.finish()
        error = call.outcomes.take_error()
        if error is not None:
            attach_completed(error, call.outcomes.completed())
            try:
                raise error
            finally:
                error = None  # no cycle from the traceback to this frame and back
        return call.outcomes.take_results()

    def _make_options(self, n_jobs):
        resolved = self._resolved
        return CallOptions(
            n_jobs=n_jobs,
            batch_size=self._batch_size,
            pre_dispatch=parse_pre_dispatch(self.pre_dispatch, n_jobs),
            explicit_pre_dispatch=self.pre_dispatch is not DEFAULT_PRE_DISPATCH,
            timeout_s=self.timeout,
            max_nbytes=resolved.max_nbytes,
            temp_folder=resolved.temp_folder,
            mmap_mode=resolved.mmap_mode,
            inner_max_num_threads=resolved.inner_max_num_threads,
            nesting_level=resolved.nesting_level + 1,
            on_error=resolved.on_error,
            retries=resolved.retries,
            verbose=resolved.verbose,
            worker_life=self._worker_life,
        )

    def _make_call(self, iterator, options):
        call = Call(
            options,
            iterator,
            RETURN_AS[self.return_as],
            config_state.caller_context(),
        )
        call.task_context = config_state.task_context(
            config_state.task_state(options.nesting_level)
        )
        if self._has_progress():
            call.outcomes.hook = self.print_progress
        return call

    def _end_call(self, call):
        """Note that a call is over; prints the last line after success."""
        if self._call is call:
            self._call = None
        if self._progress is not None and call.outcomes.done and not call.stopping:
            self._progress.finished(call.outcomes.finished)
        self._finished = call.outcomes.finished
        self._dispatched = call.source.drawn
        call.close()

    def warm_up(self):
        """Start the workers of this object's calls; see `cypar.warmup`."""
        n_jobs = self._start_backend()
        if n_jobs > 1 and hasattr(self._backend, "warm_up"):
            self._backend.warm_up(self._make_options(n_jobs))

    # ---- with-block ----------------------------------------------------------------

    def __enter__(self):
        n_jobs = self._start_backend()
        if n_jobs > 1 or self._is_foreign:
            self._backend.open(self._make_options(n_jobs))
            self._opened = True
        return self

    def __exit__(self, exc_type, exc, traceback):
        if self._opened:
            self._opened = False
            self._backend.close()

    # ---- what programs written for joblib look at -----------------------------------

    def print_progress(self):
        """Print a progress line if one is due; called after every finished task.

        Replace it in a subclass or on the object to drive a progress bar; it is then
        called whatever ``verbose`` is.
        """
        progress = self._progress
        if progress is None:
            return
        call = self._call
        if call is None:
            return
        if isinstance(call, SerialCall):
            progress.completed(call.n_finished, call.n_finished, None)
            return
        source = call.source
        window = source.window if call.options.pre_dispatch else 0
        progress.completed(
            call.outcomes.finished,
            source.drawn,
            source.drawn if source.ended else None,
            window,
        )

    @property
    def n_completed_tasks(self):
        """Number of finished tasks of the running or the last call."""
        call = self._call
        if call is None:
            return self._finished
        return (
            call.n_finished if isinstance(call, SerialCall) else call.outcomes.finished
        )

    @property
    def n_dispatched_tasks(self):
        """Number of tasks drawn from the input in the running or the last call."""
        call = self._call
        if call is None:
            return self._dispatched
        return call.n_finished if isinstance(call, SerialCall) else call.source.drawn

    def dispatch_next(self):
        """Draw more tasks if there is room; the call does so by itself."""
        call = self._call
        if call is not None and not isinstance(call, SerialCall):
            call.source.fill()

    def __repr__(self):
        return f"Parallel(n_jobs={self.n_jobs})"
