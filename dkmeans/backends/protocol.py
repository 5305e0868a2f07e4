"""The protocol of backends: the functions that each of them has, and what they guarantee."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Generic, Protocol, TypeVar

from dkmeans.distance import Centers
from dkmeans.exact import ExactSums
from dkmeans.exact_grid import BoolArray
from dkmeans.exact_total import ExactTotal
from dkmeans.state import Cached, FloatArray, IndexArray, PartialSums

# The partial sums of an implementation.
S_co = TypeVar("S_co", covariant=True)


class Implementation(Protocol, Generic[S_co]):
    """The computations on a chunk's (n, d) rows and (k, d) centers.

    Every implementation must guarantee:

    * The nearest center of a row is the argmin of its float64 distances to all centers, and the
      lowest index among equals (docs/decisions/001). So the nearest center depends on the row and
      the centers alone. Block sizes, backends and the number of workers cannot change it.
    * Distances to nearest centers are float64.
    * Sums are exact. So they depend on the set of rows alone, not on their order.
    * Sums of rows that are not finite raise `exact_grid.NotFinite`.
    * The arguments are not changed, and any number of threads may call the
      functions at the same time.
    """

    def partial_sums(self, points: FloatArray, centers: Centers) -> S_co:
        """Assign each row to its nearest center; return the sums and counts, without squares."""
        ...

    def squares(self, points: FloatArray) -> ExactTotal:
        """Return the sum of the squares of all values of the rows."""
        ...

    def assign(
        self, points: FloatArray, centers: Centers
    ) -> tuple[PartialSums, IndexArray, FloatArray]:
        """Return the results of `partial_sums` and `nearest`, with the same bits, in one pass."""
        ...

    def nearest(self, points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
        """Return the nearest center of each row and the distance to it.

        Returns:
            The cluster indices, (n,) int64, and the distances, (n,) float64.
        """
        ...

    def distances(self, points: FloatArray, centers: Centers) -> FloatArray:
        """Return the distance of each row to every center, (n, k) float32."""
        ...


class Backend(Implementation[PartialSums], Protocol):
    """An implementation that users can choose by its name."""

    def add_products(
        self, points: FloatArray, weights: FloatArray, index: IndexArray, k: int
    ) -> ExactSums:
        """Return the exact sums of (n, d) rows times their (n,) weights for each of k clusters.

        The weights are finite float64 above zero; `index` has the cluster of each row.

        Returns:
            The sums, (k, d + 1): the last column has the sums of the weights.
        """
        ...

    def total_of_products(
        self, values: FloatArray, weights: FloatArray, *, of_squares: bool
    ) -> ExactTotal:
        """Return the exact sum of all values of (n, d) rows times their (n,) weights.

        Args:
            values: The rows.
            weights: Their weights, finite float64 above zero.
            of_squares: True to take the squares of the values, which must be float32.
        """
        ...

    def weighted_sums(
        self,
        points: FloatArray,
        weights: FloatArray,
        index: IndexArray,
        centers: Centers,
        found: Cached | None,
    ) -> tuple[PartialSums, Cached | None]:
        """Return the partial sums of rows with weights, and what may save time in the next call.

        The sums are without squares.

        Args:
            points: The rows.
            weights: Their weights, (n,) float64, finite and above zero.
            index: The nearest center of each row.
            centers: The centers.
            found: The second result of an earlier call for the same rows, which must not be used
                again; None if there is none.
        """
        ...

    def add_squares(
        self, points: FloatArray, weights: FloatArray, index: IndexArray, centers: Centers
    ) -> ExactSums:
        """Return the sums of squared differences from the centers, as `moments.add_squares` does.

        Returns:
            The sums, (k, d).
        """
        ...

    def add_measures(
        self, distances: FloatArray, weights: FloatArray, index: IndexArray, k: int, factor: float
    ) -> tuple[ExactSums, FloatArray]:
        """Return the sums of measures of rows for each of k clusters, as `moments.add_measures`.

        Returns:
            The sums, (k, 4), and the largest length of a row of each cluster, (k,).
        """
        ...

    def quotients(self, sums: ExactSums, weights: ExactSums) -> tuple[FloatArray, BoolArray]:
        """Return the quotients of `exact.quotients`; some more or fewer of them may be left."""
        ...

    def terms(
        self, sums: ExactSums, weights: ExactSums, centers: FloatArray, factor: int
    ) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Return the results of `loss.terms`, with the same bits."""
        ...

    def nearest_index(self, points: FloatArray, centers: Centers) -> IndexArray:
        """Return the nearest center of each row, (n,) int64, without distances."""
        ...

    def nearest_two(self, points: FloatArray, centers: Centers) -> tuple[IndexArray, FloatArray]:
        """Return the two nearest centers of each row, of at least two, and the distances to them.

        The nearest center comes first. Of equally near centers the lower index comes first.

        Returns:
            The cluster indices, (n, 2) int64, and the distances, (n, 2) float64.
        """
        ...

    def assign_two(
        self, points: FloatArray, centers: Centers
    ) -> tuple[PartialSums, IndexArray, FloatArray]:
        """Return the results of `partial_sums`, and distances to two centers, if possible at once.

        Returns:
            The sums, each row's nearest center, (n,) int64, and the distances to the nearest and
            second nearest of at least two centers, (2, n) float64.
        """
        ...

    def sums_by_bounds(
        self, points: FloatArray, centers: Centers, found: Cached | None, start: Hashable
    ) -> tuple[PartialSums, Cached | None, int]:
        """Return the results of `partial_sums`, and what may save time in the next call.

        The third result is the number of distances that were not computed.

        Args:
            points: The rows.
            centers: The centers.
            found: The second result of an earlier call for the same rows, which must not be used
                again; None if there is none.
            start: Name of the start of a fit that the centers belong to.
        """
        ...

    def nearest_by_bounds(
        self, points: FloatArray, centers: Centers, found: Cached | None, start: Hashable
    ) -> tuple[IndexArray, Cached | None, int]:
        """Return the results of `nearest_index`, and what `sums_by_bounds` returns beside sums.

        The indices may be integers of another size, in memory that the next call overwrites.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Return the hardware and software of the backend, for display."""
        ...
