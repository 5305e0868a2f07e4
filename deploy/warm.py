"""Compile the kernels that the jobs call, for the kind of processor that this script runs on.

The build of the image runs it, so that the workers find the machine code in Numba's cache.
"""

from itertools import product

import numpy as np

from dkmeans.backends.native import backend as native
from dkmeans.backends.native import bounds, packed_centers
from dkmeans.backends.weighted import weighted_squares
from dkmeans.distance import Centers, Distance
from dkmeans.loss import inertia

# Problems that are scored in bytes at first, by a matrix unit if there is one, and by vectors.
SHAPES = ((512, 128), (64, 16), (4, 3))
# With so many rows, all of them ambiguous, the backend changes to the next scoring.
ROWS = 256


def compile_kernels(dtype: np.dtype, shape: tuple[int, int], distance: Distance) -> None:
    """Call each kernel with each scoring. All centers are equal, so that all rows are ambiguous."""
    rows = np.ones((ROWS, shape[1]), dtype)
    rows.flags.writeable = False  # as the backend passes rows to kernels
    centers = Centers(np.ones(shape, dtype), distance)
    # Another problem, as each call changes the scoring of its problem.
    more = Centers(np.ones((shape[0] + 1, shape[1]), dtype), distance)
    for _ in packed_centers.scorings(dtype):
        native.nearest_two(rows, more)
        sums = native.partial_sums(rows, centers)
    sums.sums.means(sums.cluster_weights, native.quotients)
    inertia(sums, centers, native.terms)
    native.distances(rows, centers)
    native.squares(rows)
    result = bounds.begin(rows, centers, bounds.Waiting(), "warming", with_sums=True)
    bounds.advance(rows, centers, result.bounds)
    weights, index = np.ones(ROWS), native.nearest_index(rows, centers)
    native.add_products(rows, weights, index, shape[0])
    weighted_squares(native, rows, weights)
    native.add_squares(rows, weights, index, centers)
    native.add_measures(np.ones((2, ROWS)), weights, index, shape[0], 1.0)


if __name__ == "__main__":
    for dtype, shape, distance in product((np.float32, np.float64), SHAPES, Distance):
        compile_kernels(np.dtype(dtype), shape, distance)
    print(native.describe())
