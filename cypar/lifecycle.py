"""Start workers before they are needed, and end them before the program ends."""

from __future__ import annotations

import sys

from cypar.core import _helper_threads
from cypar.parallel import Parallel


def warmup(n_jobs=-1, backend=None):
    """Start the workers of calls to come, and wait until they can run tasks.

    The next calls then find them. Those that are idle for five minutes leave. An
    ``initializer`` that `parallel_config` sets is called. Threads are so fast to
    start that nothing is done for them.

    Parameters
    ----------
    n_jobs : int, default=-1
        How many; -1 means one per CPU.
    backend : str or Backend, optional
        As in `Parallel`.

    Raises
    ------
    PoolStartError
        If they cannot be started.

    Examples
    --------
    >>> import cypar
    >>> cypar.warmup(n_jobs=2)
    >>> cypar.shutdown()
    """
    Parallel(n_jobs=n_jobs, backend=backend).warm_up()


def shutdown():
    """End all idle workers and free what is kept for later calls.

    Calls that run keep their workers. A later call starts new ones, which then have
    the limits, the priority and the environment of that moment from their start on.
    """
    supervisor = sys.modules.get("cypar.backends.pool.supervisor")
    if supervisor is not None:
        supervisor.pool.shutdown()
    _helper_threads.retire()
