from cypar.core._kernel import Kernel as Kernel
from cypar.core.errors import KernelError as KernelError

def get_include() -> str: ...
