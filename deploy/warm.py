"""Compile the kernels that the jobs call, for the kind of processor that this runs on."""

from itertools import product

import numpy as np

from dkmeans.backends.native import backend as native
from dkmeans.backends.native import packing
from dkmeans.distance import Centers, Distance

# The smallest problem that a matrix unit scores, where there is one, and one that vectors score.
SHAPES = ((64, 16), (4, 3))
# So many that a way of scoring that leaves them all in doubt is left for the next one.
ROWS = 256


def compile_kernels(dtype: np.dtype, shape: tuple[int, int], distance: Distance) -> None:
    """Call each kernel in each way of scoring: among equal centers no score can decide."""
    rows = np.ones((ROWS, shape[1]), dtype)
    centers = Centers(np.ones(shape, dtype), distance)
    for _ in packing.ways(dtype):
        native.partial_sums(rows, centers)
    native.distances(rows, centers)


if __name__ == "__main__":
    for dtype, shape, distance in product((np.float32, np.float64), SHAPES, Distance):
        compile_kernels(np.dtype(dtype), shape, distance)
    print(native.describe())
