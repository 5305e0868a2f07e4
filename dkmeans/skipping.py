"""Skipping: partial sums of chunks that are the same in each iteration, without most of the work.

`partial_sums.accumulate` calls `by_bounds`, and for rows with weights `by_movement` too. The worker
caches bounds of the rows' distances beside the rows, and the backend scores only the rows and
centers that the bounds do not exclude. A lost entry costs time, and never changes a bit.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

from dkmeans.backends import select
from dkmeans.data.cache import CacheBudget, cache_budget, row_cache
from dkmeans.data.chunks import LoadedChunk
from dkmeans.distance import Centers
from dkmeans.executors.reduction import participant, skips
from dkmeans.state import Cached, FloatArray, IndexArray, PartialSums

T = TypeVar("T")

# Number of centers in a group, and bytes of a group's bound, as in `group_vectors` and `RowBounds`:
# repeated here, so that this module need not import the native backend.
_GROUP, _BOUND_BYTES = 16, 2
# Bytes of a row's cluster and upper bound; of a row with a weight also of the cluster whose sum it
# is in.
_ROW_BYTES, _WEIGHTED_BYTES = 8, 4


class NoRoom:
    """Cached entry that marks a chunk whose bounds had no room, so that none are computed again."""

    nbytes = 64  # about


def bounds_bytes(rows: int, num_clusters: int, *, with_weights: bool = False) -> int:
    """Return the size of the bounds of some rows, in bytes: about k / 8 + 8 for each.

    Rows with weights take 4 bytes more: the cluster whose sum they are in.
    """
    own = _ROW_BYTES + _WEIGHTED_BYTES * with_weights
    return rows * (own + _BOUND_BYTES * -(-num_clusters // _GROUP))


def by_bounds(
    loaded: LoadedChunk,
    points: FloatArray,
    centers: Centers,
    start: int | None,
    compute: Callable[[FloatArray, Centers, Cached | None, Hashable], tuple[T, Cached | None, int]],
    without: Callable[[FloatArray, Centers], T],
    then: Callable[[T], PartialSums],
) -> PartialSums:
    """Return the sums that follow from what a backend computes, and cache bounds of the rows.

    Args:
        loaded: The chunk. If there is a start, the chunk is one of a `numbered` batch.
        points: Its rows, (n, d); those with a weight, if they have weights.
        centers: The centers.
        start: Number of the start that the centers belong to, if the chunk is the same in each
            iteration; None if it is not.
        compute: `sums_by_bounds` or `nearest_by_bounds` of the backend.
        without: The function of the backend that returns the same result without bounds.
        then: Returns the sums, given that result. It is called before the bounds are cached: after
            that another task may overwrite them, and with them the result.

    Raises:
        NotFinite: a value is not finite.
    """
    budget = cache_budget.get()
    key = _key("bounds", loaded, start, budget)
    if key is None or budget is None:
        return then(without(points, centers))
    found = row_cache.take_entry(key)
    if isinstance(found, NoRoom):
        row_cache.put_entry(key, found, evicts_rows=True)
        return then(without(points, centers))
    result, bounds, skipped = compute(points, centers, found, (budget.fit, key[1]))
    sums = then(result)
    if counter := skips.get():
        counter.count += skipped
    # Bounds must not evict rows: to read a chunk again takes longer than bounds save.
    if bounds is not None and not row_cache.put_entry(key, bounds, evicts_rows=False):
        row_cache.put_entry(key, NoRoom(), evicts_rows=True)
    return sums


def by_movement(
    loaded: LoadedChunk,
    points: FloatArray,
    weights: FloatArray,
    centers: Centers,
    start: int | None,
    index: IndexArray,
) -> PartialSums:
    """Return the sums of weighted rows: the cached ones, after moving rows to their new clusters.

    Args:
        loaded: The chunk.
        points: Its rows with a weight, (n, d).
        weights: (n,) float64, their weights.
        centers: The centers.
        start: As in `by_bounds`.
        index: (n,) the nearest center of each row.

    Raises:
        NotFinite: a value is not finite.
    """
    key = _key("weighted sums", loaded, start, cache_budget.get())
    found = None if key is None else row_cache.take_entry(key)
    sums, kept = select(centers.backend).weighted_sums(points, weights, index, centers, found)
    if key is not None and kept is not None:
        row_cache.put_entry(key, kept, evicts_rows=False)
    return sums


def _key(
    what: str, loaded: LoadedChunk, start: int | None, budget: CacheBudget | None
) -> tuple[str, Hashable, int, int] | None:
    """Return the cache key of one kind of entry, of a chunk and a start; None without a cache."""
    if start is None or budget is None or not budget.cache_bytes:
        return None
    # The participant makes the key unique among trainings that share reads.
    name = participant.get(), start
    return what, name, loaded.chunk.number, loaded.chunk.rows
