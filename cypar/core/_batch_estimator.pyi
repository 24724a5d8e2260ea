class BatchEstimator:
    dispatch_seconds: float
    task_seconds: float
    size: int
    n_observed: int
    def __init__(self, dispatch_seconds: float = 60e-6) -> None: ...
    def observe(self, n_tasks: int, seconds: float) -> int: ...
