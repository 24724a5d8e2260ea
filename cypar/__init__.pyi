from cypar.backends.base import ParallelBackendBase as ParallelBackendBase
from cypar.backends.pool.preload import set_preload as set_preload
from cypar.config import BACKENDS as BACKENDS
from cypar.config import DEFAULT_BACKEND as DEFAULT_BACKEND
from cypar.config import parallel_backend as parallel_backend
from cypar.config import parallel_config as parallel_config
from cypar.config import register_parallel_backend as register_parallel_backend
from cypar.config import set_config as set_config
from cypar.core._delayed import delayed as delayed
from cypar.core.cpu import cpu_count as cpu_count
from cypar.core.errors import BadFileError as BadFileError
from cypar.core.errors import CyparError as CyparError
from cypar.core.errors import CyparWarning as CyparWarning
from cypar.core.errors import InitializerError as InitializerError
from cypar.core.errors import KernelError as KernelError
from cypar.core.errors import NoProgressError as NoProgressError
from cypar.core.errors import PoolStartError as PoolStartError
from cypar.core.errors import RemoteError as RemoteError
from cypar.core.errors import TaskError as TaskError
from cypar.core.errors import TaskPicklingError as TaskPicklingError
from cypar.core.errors import TaskTimeout as TaskTimeout
from cypar.core.errors import TaskTraceback as TaskTraceback
from cypar.core.errors import WorkerCrash as WorkerCrash
from cypar.core.worker_index import worker_index as worker_index
from cypar.kernels import Kernel as Kernel
from cypar.kernels import get_include as get_include
from cypar.lifecycle import shutdown as shutdown
from cypar.lifecycle import warmup as warmup
from cypar.parallel import Parallel as Parallel
from cypar.resolution import effective_n_jobs as effective_n_jobs
from cypar.resolution import get_active_backend as get_active_backend
from cypar.transport.persistence import dump as dump
from cypar.transport.persistence import load as load
from cypar.transport.serialize import register_reducer as register_reducer
from cypar.transport.serialize import set_pickler as set_pickler
from cypar.transport.sharing import share as share
from cypar.transport.wrapper import (
    wrap_non_picklable_objects as wrap_non_picklable_objects,
)

__version__: str
__all__: list[str]
