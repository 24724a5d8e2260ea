"""The Mandelbrot set, computed on all cores in three ways."""

import numpy as np

from cypar import Kernel, Parallel, delayed
from mandel import escape

BOX = (-2.0, 0.6, -1.2, 1.2)  # left, right, bottom, top

# Found by name, so it could also be sent to worker processes. Its lengths: argument 1
# counts the items behind argument 0, which `Kernel` then checks.
escape_row = Kernel("mandel.escape", "escape_row", lengths={0: 1})


def heights(n_rows, box=BOX):
    """Return the y of each row."""
    return box[2] + np.arange(n_rows) * ((box[3] - box[2]) / n_rows)


def with_parallel(steps, limit, n_jobs=-1):
    """Fill a picture with the loop that you may have already: `delayed` calls."""
    n_rows, n = steps.shape
    left, right = BOX[:2]
    return Parallel(n_jobs, prefer="threads")(
        delayed(escape_row)(row, n, y, left, right, limit)
        for row, y in zip(steps, heights(n_rows).tolist(), strict=True)
    )


def with_map(steps, limit, n_jobs=-1):
    """Fill a picture with one call: the rows of two arrays, the rest repeated."""
    n_rows, n = steps.shape
    return escape_row.map(steps, n, heights(n_rows), *BOX[:2], limit, n_jobs=n_jobs)


def with_parallel_for(steps, limit, n_jobs=-1):
    """Fill a picture with the loop in Cython."""
    escape.picture(steps, BOX, limit, n_jobs)
