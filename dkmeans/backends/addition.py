"""What all backends share when they add up rows exactly: the grid, and the values not on it.

Each backend adds up in its own way the values that lie on the grid of `grid_for`, and names the
rows of all other values. `plus_rest` adds these values, which are few.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from dkmeans.distance import Centers, Distance, directions
from dkmeans.exact import ExactSums
from dkmeans.exact_grid import COSINE_EXPONENT, BoolArray, Grid, NotFinite, slices
from dkmeans.exact_total import ExactTotal, total_of_squares
from dkmeans.state import FloatArray, IndexArray

# Values that are added at a time: a few hundred bytes each.
_VALUES_AT_ONCE = 2**16


# Bits by which a grid of all chunks may be coarser than that of a chunk.
_COARSER_BITS = 2


class GridPerCenters:
    """Grids of sums, for each `Centers` that of the first chunk in this process.

    Sums on the same grid are added without a shift. The grids of chunks differ by a few bits, as
    each is made from few rows. So that of the first is taken a few bits finer, and may be a little
    coarser than that of a chunk: a few more of its small values do not lie on the grid.

    Args:
        bits: Number of these bits.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._first: WeakKeyDictionary[Centers, Grid] = WeakKeyDictionary()

    def __call__(self, centers: Centers, own: Grid) -> Grid:
        """Return the grid for a chunk whose own grid is given: that of the first if it suits."""
        first = self._first.setdefault(centers, Grid(own.exponents - self._bits))
        finer = own.exponents - first.exponents
        suits = (finer >= -_COARSER_BITS) & (finer <= 2 * self._bits + 1)
        return first if suits.all() else own


_grids_of_rows = GridPerCenters(1)


def grid_for(points: FloatArray, centers: Centers) -> Grid:
    """Return the grid on which (n, d) rows are added up: that of earlier sums if it suits the rows.

    Sums on the same grid are added without a shift.
    """
    if centers.distance is Distance.COSINE:
        return Grid.of_directions(points.shape[1])
    own = Grid.of(points)
    if centers.grid is not None:
        return centers.grid if own.suits(centers.grid) else own
    return _grids_of_rows(centers, own)


def as_added(points: FloatArray, distance: Distance) -> FloatArray:
    """Return what one copy of each of the (n, d) rows adds to the sum of its cluster, float64."""
    if distance is not Distance.COSINE:
        return points.astype(np.float64)
    return np.asarray(np.rint(directions(points) * 2.0**-COSINE_EXPONENT) * 2.0**COSINE_EXPONENT)


def whole_parts(
    points: FloatArray, grid: Grid, distance: Distance
) -> tuple[list[FloatArray], BoolArray]:
    """Return what (n, d) rows add to each plane, as integers in float64, and which values are left.

    The parts are those of planes 0, -1, ... For cosine the directions of the rows are rounded to
    integers, and only those of rows that are not finite are left.
    """
    if distance is not Distance.COSINE:
        return grid.split(points)
    rounded = np.rint(directions(points) * 2.0**-COSINE_EXPONENT)
    left = ~np.isfinite(rounded)
    rounded[left] = 0.0
    return [rounded], left


def plus_rest(
    sums: ExactSums, points: FloatArray, index: IndexArray, distance: Distance
) -> ExactSums:
    """Return the sums with those values of some rows added that do not lie on the grid.

    Args:
        sums: Sums of all other values, of these and of other rows.
        points: (m, d) rows with such values.
        index: (m,) the cluster of each row.
        distance: The distance.

    Raises:
        NotFinite: a value is not finite, or for cosine a row is too long to have a direction.
    """
    for some in slices(len(points), points.shape[1], _VALUES_AT_ONCE):
        _, left = sums.grid.split(points[some])
        sums = _plus(sums, points[some], left, index[some], distance)
    return sums


def plus_rows(
    sums: ExactSums, points: FloatArray, index: IndexArray, distance: Distance
) -> ExactSums:
    """Return the sums with (m, d) rows added of which some values do not lie on the grid.

    Raises:
        NotFinite: as `plus_rest` does.
    """
    for some in slices(len(points), points.shape[1], _VALUES_AT_ONCE):
        parts, left = sums.grid.split(points[some])
        planes = {-m: np.zeros(sums.shape, np.int64) for m in range(len(parts))}
        for m, part in enumerate(parts):
            np.add.at(planes[-m], index[some], part.astype(np.int64))
        sums += ExactSums(sums.grid, planes)
        sums = _plus(sums, points[some], left, index[some], distance)
    return sums


def plus_rounded_away(sums: ExactSums, points: FloatArray, index: IndexArray) -> ExactSums:
    """Return sums of rounded rows with what was rounded away added, in the memory of the sums.

    Args:
        sums: Sums of rows as nearest integers, of these and of other rows.
        points: (m, d) rows with values that do not lie on the grid.
        index: (m,) the cluster of each row.
    """
    for some in slices(len(points), points.shape[1], _VALUES_AT_ONCE):
        sums = sums.plus_few(sums.grid.rounded_away(points[some]).moved(index[some]))
    return sums


def _plus(
    sums: ExactSums, points: FloatArray, where: BoolArray, index: IndexArray, distance: Distance
) -> ExactSums:
    if distance is Distance.COSINE or not np.isfinite(points).all():
        raise NotFinite
    rows, columns = np.nonzero(where)
    return sums.plus_values(index[rows], columns, points[rows, columns])


def rest_of_squares(values: FloatArray) -> ExactTotal:
    """Return the exact sum of the squares of (m,) values that do not lie on the grid.

    Raises:
        NotFinite: a value is not finite.
    """
    if not np.isfinite(values).all():
        raise NotFinite
    return total_of_squares(values)
