"""Indices of a clustering, from the moments of its clusters. Runs on the driver.

    found = indices_of(moments, centers, ("silhouette", "davies_bouldin"))

Distances are Euclidean: those of the rows, or for the cosine distance those of rows scaled to
length one. `cluster_inertia` alone adds up the distances that the model minimizes. A row of the
weight w counts as w rows. An index that is not defined, such as the silhouette of one cluster, is
NaN.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dkmeans.backends import select_processor
from dkmeans.backends.moments import AMBIGUOUS, DISTANCE, LENGTH, SILHOUETTE
from dkmeans.backends.rounding import QUIET, exact_rows
from dkmeans.distance import Centers, Distance, squared_norms
from dkmeans.errors import Invalid, InvalidType, expected
from dkmeans.exact import ExactSums, in_pieces
from dkmeans.executors import cores
from dkmeans.indices.cluster_moments import Moments
from dkmeans.json_text import numbers_of
from dkmeans.scaling import Scaling
from dkmeans.state import FloatArray, IndexArray

logger = logging.getLogger("dkmeans")

_ALL = "all"
# Number of pairs of centers, or of values of their differences, that are computed at a time; and
# least number of rows of a matrix product, as each product reads all centers.
_PAIRS_AT_ONCE, _FEWEST_ROWS = 2**17, 16
# If float32 leaves more candidate pairs than this for each center, float64 looks for them again.
_MOST_PAIRS = 8
# Bound of what underflow takes from a squared distance, in smallest normal numbers.
_UNDERFLOW = 2.0**26
# Relative error of squares about means, and mean cosine distance, beyond which indices may differ
# from their definition by more than 1e-9.
_LARGEST_ERROR, _SMALLEST_COSINE = 1e-9, 1e-6
# The index that needs the squares of `Moments`.
DEVIATION = "cluster_deviation"


def check_indices(given: Any, argument: str = "indices") -> tuple[str, ...]:
    """Return the names of indices; `"all"`, alone or in the list, stands for every one.

    Args:
        given: The names that were given; None for none.
        argument: Name of the argument, for messages.

    Raises:
        InvalidType: it is no list of names.
        Invalid: a name is unknown.
    """
    if given is None:
        return ()
    if isinstance(given, str) and given == _ALL:
        return NAMES
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InvalidType(expected(argument, "a list of names or 'all'", given))
    # A name may be one of NumPy's own kind of text.
    names = tuple(str(name) if isinstance(name, str) else name for name in given)
    for name in names:
        if name not in (_ALL, *NAMES):
            raise Invalid(expected(argument, f"'all' or among {', '.join(NAMES)}", name))
    return NAMES if _ALL in names else names


def indices_of(
    moments: Moments, centers: Centers, names: Iterable[str], scaling: Scaling | None = None
) -> dict[str, Any]:
    """Return indices by name: a float, or an array with one entry for each cluster.

    Args:
        moments: Moments of the rows.
        centers: The centers that the moments are about.
        names: Names of the indices, among `NAMES`.
        scaling: Means and deviations by which the rows were standardized; None if they were not.
            The means and deviations of clusters are returned in the original units, except for
            cosine.
    """
    values = exact_rows(centers.values, centers.distance)
    judged = _Clusters(moments, values, centers.distance, scaling)
    found = {name: _INDICES[name](judged) for name in names if name != SAMPLED}
    _report_lost_digits(judged, found)
    return found


def _report_lost_digits(clusters: _Clusters, found: Iterable[str]) -> None:
    """Warn if indices have fewer digits than they are documented to have.

    Variances are differences of squares about the centers, which lose digits if centers are far
    from the means of their rows. A cosine distance has an absolute error: small ones have few
    digits.
    """
    if clusters.distance is Distance.COSINE:
        if 0 < clusters.mean_of_all(DISTANCE) < _SMALLEST_COSINE:
            logger.warning(
                "indices have few digits: rows are as near to their centers as the rounding errors "
                "of the cosine distance"
            )
        return
    if names := sorted({"calinski_harabasz", DEVIATION}.intersection(found)):
        error = np.finfo(np.float64).eps * float(clusters.moved.sum())
        if error > _LARGEST_ERROR * clusters.squares_about_means:
            logger.warning(
                "few digits in %s, because centers are far from the means of their rows; train "
                "the model on rows like these first",
                ", ".join(names),
            )


def as_json(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return indices as numbers and lists that JSON has; what is not finite becomes None."""
    return {name: numbers_of(np.asarray(value)) for name, value in found.items()}


@dataclass(frozen=True, eq=False)
class _Clusters:
    """Clusters with what several indices need of them.

    Attributes:
        moments: Their moments.
        centers: (k, d) float64, their centers.
        distance: The distance.
        scaling: Means and deviations by which the rows were standardized; None if they were not.
    """

    moments: Moments
    centers: FloatArray
    distance: Distance
    scaling: Scaling | None

    @property
    def scaling_of_rows(self) -> Scaling | None:
        """The scaling that returns means and deviations to their original units; None without one.

        Rows of length one (cosine) have lost the units that they had before.
        """
        return None if self.distance is Distance.COSINE else self.scaling

    @cached_property
    def weights(self) -> NDArray[Any]:
        """(k,) the number of rows, or the sum of their weights."""
        return np.asarray(self.moments.weights.rounded()[:, 0])

    @cached_property
    def filled(self) -> NDArray[np.bool_]:
        """(k,) True for clusters with rows."""
        return np.asarray(self.weights > 0)

    @cached_property
    def means(self) -> FloatArray:
        """(k, d) the means of the rows; NaN without rows."""
        return self._means_of(self.moments.rows)

    @property
    def inertias(self) -> FloatArray:
        """(k,) the sums of the squared distances from the centers; NaN without rows."""
        # The squared Euclidean distance of two rows of length one is twice their cosine distance.
        factor = 2.0 if self.distance is Distance.COSINE else 1.0
        return np.asarray(factor * self.mean_of(DISTANCE) * self.weights)

    @property
    def variances(self) -> FloatArray:
        """(k, d) the variances of the columns; NaN without rows."""
        squares = self._means_of(self.moments.squares)
        return np.asarray(np.maximum(squares - np.square(self.means - self.centers), 0.0))

    @cached_property
    def moved(self) -> FloatArray:
        """Squared distances of filled centers from the means of their rows, times the weights."""
        moves = squared_norms(self.means[self.filled] - self.centers[self.filled])
        return np.asarray(self.weights[self.filled] * moves)

    @property
    def squares_about_means(self) -> float:
        """Sum of the squared distances of all rows from the means of their clusters."""
        return max(0.0, float((self.inertias[self.filled] - self.moved).sum()))

    @cached_property
    def _measures(self) -> FloatArray:
        return self._means_of(self.moments.measures)

    def mean_of(self, measure: int) -> FloatArray:
        """Return the mean of a measure over the rows of each cluster, (k,); NaN without rows."""
        return np.asarray(self._measures[:, measure])

    def mean_of_all(self, measure: int) -> float:
        """Return the mean of a measure over all rows."""
        return float(self.moments.total_of(measure)) / float(self.moments.weights.total())

    def _means_of(self, sums: ExactSums) -> FloatArray:
        means: FloatArray = sums.means(self.moments.weights, select_processor().quotients)
        means[~self.filled] = np.nan
        return means


def _of_all(clusters: _Clusters, measure: int) -> float:
    return clusters.mean_of_all(measure) if len(clusters.centers) > 1 else np.nan


def _cluster_silhouette(clusters: _Clusters) -> FloatArray:
    means = clusters.mean_of(SILHOUETTE)
    return means if len(means) > 1 else np.full(1, np.nan)


def _davies_bouldin(clusters: _Clusters) -> float:
    """Return the mean over clusters of the largest similarity to another one.

    The similarity is the sum of the mean distances to both centers, divided by the distance of the
    centers (Davies and Bouldin, A cluster separation measure, 1979); 0 if the centers are equal, as
    in scikit-learn.
    """
    centers = clusters.centers[clusters.filled]
    spreads = clusters.mean_of(LENGTH)[clusters.filled]
    if len(centers) < 2:
        return np.nan
    worst, width = np.zeros(len(centers)), centers.shape[1]
    size = max(_FEWEST_ROWS, _PAIRS_AT_ONCE // len(centers))
    rounded_to = cache(partial(_LikelyWorst.of, centers, spreads))
    # Other threads of BLAS would busy-wait for a while after each product.
    with cores.computing:
        for start in range(0, len(centers), size):
            some = np.arange(start, min(start + size, len(centers)))
            pairs = rounded_to(np.float32).pairs(some)
            if len(pairs[0]) > _MOST_PAIRS * len(some):
                pairs = rounded_to(np.float64).pairs(some)
            for one, other in in_pieces(pairs, max(1, _PAIRS_AT_ONCE // width)):
                distances = np.sqrt(squared_norms(centers[other] - centers[one]))
                distances[distances == 0] = np.inf
                np.maximum.at(worst, one, (spreads[other] + spreads[one]) / distances)
    return float(worst.mean())


@dataclass(frozen=True, eq=False)
class _LikelyWorst:
    """Rounded centers, by which pairs are found whose similarity may be the largest.

    A matrix product computes squared distances whose error is at most that of d + 4 roundings of
    the largest term (as in `backends.rounding`). The roundings of the centers are among them.
    Float32 takes half the time of float64, and leaves hardly more candidates, unless some centers
    are much closer to each other than others.

    Attributes:
        moved: (k, d) the centers less their mean, scaled so that the largest value is one.
        squares: (k,) their squared lengths.
        spreads: (k,) the mean distances to the centers, relative to the largest one.
        has_spread: (k,) False where all rows are at the center.
    """

    moved: FloatArray
    squares: FloatArray
    spreads: FloatArray
    has_spread: NDArray[np.bool_]

    @classmethod
    @QUIET
    def of(cls, centers: FloatArray, spreads: FloatArray, dtype: DTypeLike) -> _LikelyWorst:
        """Return centers, (k, d), and mean distances to them, (k,), in this dtype."""
        moved = centers - centers.mean(axis=0)
        # Similarities are compared: a factor of all distances, or of all spreads, changes nothing.
        rounded, relative = (
            (values / (np.abs(values).max() or 1.0)).astype(dtype) for values in (moved, spreads)
        )
        return cls(rounded, squared_norms(rounded), relative, spreads > 0)

    @QUIET
    def pairs(self, some: IndexArray) -> tuple[IndexArray, IndexArray]:
        """Return pairs of some centers and of the other centers that may be most similar to them.

        Args:
            some: (m,) numbers of the centers.

        Returns:
            The numbers of the first and of the second center of each pair.
        """
        limits, width = np.finfo(self.moved.dtype), self.moved.shape[1]
        size = self.squares[some, None] + self.squares
        found = (-2.0 * self.moved[some]) @ self.moved.T
        found += size
        found[np.arange(len(some)), some] = np.inf  # a center is not compared with itself
        error = np.multiply(size, 4 * (width + 4) * limits.eps, out=size)
        error += _UNDERFLOW * limits.tiny
        # Squares of similarities, and their reciprocals, need no roots of distances.
        spread = self.spreads[some, None] + self.spreads
        spread *= spread
        reciprocal = found + error
        reciprocal /= spread
        # Centers closer than the error set no limit: the similarity of equal ones is 0.
        reciprocal[found <= error] = np.inf
        found -= error
        # The negation also selects what is NaN, where squares overflow or underflow.
        spread *= reciprocal.min(axis=1, keepdims=True)
        rows, others = np.nonzero(~(found > spread))
        ones = some[rows]
        is_pair = (ones != others) & (self.has_spread[ones] | self.has_spread[others])
        return ones[is_pair], others[is_pair]


def _calinski_harabasz(clusters: _Clusters) -> float:
    """Return the variance of the clusters' means over that of the rows about them.

    Each is divided by its degrees of freedom (Calinski and Harabasz, A dendrite method for cluster
    analysis, 1974).
    """
    filled, rows = clusters.filled, float(clusters.weights.sum())
    count = int(filled.sum())
    weights, middle = clusters.weights[filled][:, None], clusters.centers.mean(axis=0)
    means = clusters.means[filled] - middle
    within = clusters.squares_about_means
    between = float((weights * np.square(means - (weights * means).sum(axis=0) / rows)).sum())
    if count < 2 or rows <= count or within == 0:
        return np.nan
    return between / (count - 1) / (within / (rows - count))


def _cluster_inertia(clusters: _Clusters) -> FloatArray:
    ones = np.ones(len(clusters.centers), np.int64)
    # A division by one rounds an exact sum once.
    return clusters.moments.measures.columns(slice(DISTANCE, DISTANCE + 1)).means(ones)[:, 0]


def _cluster_mean(clusters: _Clusters) -> FloatArray:
    scaling = clusters.scaling_of_rows
    return clusters.means if scaling is None else scaling.original(clusters.means)


def _cluster_deviation(clusters: _Clusters) -> FloatArray:
    deviations, scaling = np.sqrt(clusters.variances), clusters.scaling_of_rows
    return deviations if scaling is None else deviations * scaling.deviations


_INDICES: dict[str, Callable[[_Clusters], Any]] = {
    "silhouette": partial(_of_all, measure=SILHOUETTE),
    "davies_bouldin": _davies_bouldin,
    "calinski_harabasz": _calinski_harabasz,
    "ambiguous": partial(_of_all, measure=AMBIGUOUS),
    "cluster_sizes": lambda clusters: clusters.weights,
    "cluster_inertia": _cluster_inertia,
    "cluster_radius": lambda clusters: np.where(clusters.filled, clusters.moments.radius, np.nan),
    "cluster_silhouette": _cluster_silhouette,
    "cluster_mean": _cluster_mean,
    DEVIATION: _cluster_deviation,
}
# The indices that need the sums of the rows of each cluster.
OF_ROWS = frozenset({"calinski_harabasz", "cluster_mean", DEVIATION})
# The indices that compare the distances to the two nearest centers.
OF_TWO = frozenset({"silhouette", "ambiguous", "cluster_silhouette"})
# The silhouette of a sample of the rows (`row_sample`): it compares rows with rows.
SAMPLED = "sampled_silhouette"
NAMES = (*_INDICES, SAMPLED)
