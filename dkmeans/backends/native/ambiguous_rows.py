"""The search for the nearest center of an ambiguous row, by exact distances.

`kernels` calls these functions for tiles without first scores, for rows whose least scores are
closer than their rounding error (docs/decisions/001). `first_scores` has a search of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dkmeans.backends.native import tile_vectors
from dkmeans.backends.native.compilation import compiled
from dkmeans.backends.native.exact_distances import distance_to
from dkmeans.backends.native.tile_vectors import PROBED_PANELS
from dkmeans.backends.native.tiles import panel_width

# Stands for no center. A Python literal would have a type of its own (see `compilation`).
NO_CENTER = np.int64(-1)


@compiled
def nearest_minimum(
    points: Any, place: int, without: int, centers: Any, scratch: Any, tile: Any
) -> Any:
    """Return the nearest center, except `without`, among those of the three least panel minima.

    Only valid if no other center is within the limit (see `kernels._resolve_second`).
    """
    row, scale, width = scratch.indices[place], scratch.exact_scales[place], panel_width(tile)
    cluster, least = np.int64(0), np.inf
    for number in range(3):
        center = np.int64(
            scratch.panels[number, place] * width
            + (scratch.ranked_bits[number, place] & (width - 1))
        )
        if center != without:
            distance = distance_to(points, row, scale, centers, center, scratch.distance_parts)
            if distance < least or (distance == least and center < cluster):
                cluster, least = center, distance
    return cluster


@compiled
def nearest_exactly(
    points: Any, place: int, limit: float, without: Any, centers: Any, scratch: Any,
    tile: Any,
) -> Any:  # fmt: skip
    """Return the index of the row's nearest center but `without`, found by exact distances.

    Exact distances are computed only to centers whose scores are at most `limit`. These are in two
    panels if the third least panel minimum is above `limit`.
    """
    k, width, step = len(centers.exact), panel_width(tile), PROBED_PANELS * len(tile.centers)
    row, scale = scratch.indices[place], scratch.exact_scales[place]
    first, last, stride = 0, k, step
    if scratch.ranked[2, place] > limit:
        # At most two values of `start`: the groups of `step` centers that contain the two panels.
        one = scratch.panels[0, place] * width // step * step
        other = scratch.panels[1, place] * width // step * step
        if scratch.ranked[1, place] > limit:  # then the centers are in the first panel
            other = one
        first, last = min(one, other), max(one, other) + 1
        stride = max(last - 1 - first, 1)
    cluster, least = 0, np.inf
    for start in range(first, last, stride):
        tile_vectors.probe(
            scratch.rows, place, len(scratch.indices), centers.weights, centers.halves, start,
            points.shape[1], scratch.probe_scores, tile,
        )  # fmt: skip
        for center in range(start, min(start + step, k)):
            # The negation selects the center if its score or the limit is NaN.
            if center != without and not scratch.probe_scores[center - start] > limit:
                distance = distance_to(points, row, scale, centers, center, scratch.distance_parts)
                # Centers come in ascending order and < is strict: equal distances keep the lowest
                # index. A row that is not finite has no distance below infinity and gets center 0.
                if distance < least:
                    cluster, least = center, distance
    return cluster
