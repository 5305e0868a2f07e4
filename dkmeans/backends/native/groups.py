"""Groups of neighboring centers: how groups are found and packed, and how far their centers move.

`bounds` holds one `Course` for each start of a fit. A course has the groups, and advances with each
iteration to a `Stage`: the packed centers and the movement since the course began. Bounds are made
at a stage. Widened by the movement since, they hold at every later stage of the same course.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import DTypeLike

from dkmeans.backends.native import packing, panels
from dkmeans.backends.native.all_pairs import TileScoring
from dkmeans.backends.native.group_vectors import GROUP
from dkmeans.backends.native.panels import aligned
from dkmeans.backends.native.reassign import GroupedCenters, Movement
from dkmeans.backends.native.tile_vectors import Tile
from dkmeans.backends.rounding import shifted
from dkmeans.distance import SMALLEST_SQUARED_NORM, Centers, Distance, squared_norms
from dkmeans.state import FloatArray, IndexArray

# Rounds of the power method: the direction need not be exact.
_ROUNDS = 8
# Movements are rounded up by more than the rounding of the operations that compute them.
_MOVED_UP = 1 + 1e-6
# Added to movements, so that float32 does not round them to zero; least divisor of a direction.
_LEAST_LENGTH = 1e-37
# The same for `Movement.reach`, which is rounded to float32 and subtracted from bounds.
_REACH_UP = 1 + 4e-7
_EPS = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Stage:
    """The centers of one iteration on a course.

    Attributes:
        course: The course.
        grouped: The packed centers.
        total: (groups padded to a multiple of 16,) float64. For each group the sum of the largest
            movements of its centers since the course began.
    """

    course: Course
    grouped: GroupedCenters
    total: FloatArray
    _scoring: list[tuple[Tile, TileScoring]] = field(default_factory=list)
    _movements: WeakKeyDictionary[Stage, Movement] = field(default_factory=WeakKeyDictionary)

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.grouped.members) // GROUP

    def scoring(self) -> tuple[Tile, TileScoring]:
        """Return the shape of tiles that are scored against all groups, and their constants."""
        with self.course.lock:
            if not self._scoring:
                self._scoring.append(_scoring_of(self.grouped))
            return self._scoring[0]

    def movement_since(self, earlier: Stage) -> Movement:
        """Return the movement of the centers, for bounds that were made at an earlier stage.

        The movement of a group is counted since the course began (see `Movement`).
        """
        with self.course.lock:
            if earlier not in self._movements:
                of_centers = _movements(earlier.grouped.exact, self.grouped.exact)
                self._movements[earlier] = Movement(
                    of_centers=of_centers.astype(np.float32),
                    added=self.total.astype(np.float32),
                    reach=(self.total * _REACH_UP).astype(np.float32),
                )
            return self._movements[earlier]


class Course:
    """The stages of one start's centers, in the iterations that this process computes.

    Args:
        centers: The first centers.
        dtype: The dtype of the rows.
    """

    def __init__(self, centers: Centers, dtype: DTypeLike) -> None:
        self.lock = threading.Lock()
        self._dtype = np.dtype(dtype)
        self._members = grouped(centers.values.astype(np.float64))
        self._centers = centers
        padded = -(-len(self._members) // GROUP // GROUP) * GROUP
        self._stage = Stage(self, self._packed(centers), np.zeros(padded))

    def stage(self, centers: Centers) -> Stage:
        """Return the stage of these centers; make the next stage if the centers are new."""
        with self.lock:
            # Small centers are sent with each task, so the tasks of an iteration have equal copies.
            if centers is self._centers or np.array_equal(centers.values, self._centers.values):
                return self._stage
            packed, total = self._packed(centers), self._stage.total.copy()
            moved = np.zeros(GROUP * len(total))
            used = self._members >= 0
            own = _movements(self._stage.grouped.exact, packed.exact)
            moved[: len(used)][used] = own[self._members[used]]
            total += moved.reshape(-1, GROUP).max(axis=1)
            self._centers, self._stage = centers, Stage(self, packed, total)
            return self._stage

    def _packed(self, centers: Centers) -> GroupedCenters:
        prepared, members = shifted(centers, self._dtype), self._members
        values, (k, d), used = prepared.values(), centers.values.shape, members >= 0
        weights = np.zeros((len(members), d), np.float32)
        weights[used] = -values[members[used]]
        by_feature = weights.reshape(-1, GROUP, d).swapaxes(1, 2).ravel()
        limits = np.finfo(np.float32)
        halves = np.full(len(members), float(limits.max) / 4, np.float32)
        halves[used] = prepared.halves[members[used]]
        group_of = np.empty(k, np.int64)
        group_of[members[used]] = np.flatnonzero(used) // GROUP
        cosine, rounding = prepared.cosine, prepared.rounding
        return GroupedCenters(
            weights=aligned(np.concatenate([by_feature, np.zeros(4 * GROUP, np.float32)])),
            halves=halves,
            members=members,
            group_of=group_of,
            shift=prepared.shift,
            values=np.pad(values.astype(np.float32), ((0, 0), (0, -d % GROUP))),
            exact=prepared.exact(),
            # As in `packing`, with the numbers of 16 centers in the last bits.
            error_factor=packing.error_factor(d, GROUP, _EPS),
            error_floor=d * float(limits.tiny) + rounding.exact * cosine,
            error_exact=rounding.exact,
            # Squares are added up in 16 lanes, and these in a tree: d / 16 + 8 roundings. A row's
            # own score comes from two such sums, its length and its distance.
            error_squares=2 * (d / GROUP + 8) * _EPS,
            # Row, shift and center are rounded to float32 before they are subtracted.
            error_length=2 * _EPS,
            slack=8 * rounding.exact * cosine,
            largest_norm=rounding.largest,
            largest_half=rounding.half,
            score_limit=float(limits.max) / 16,
            own_square=float(cosine),
            cosine=cosine,
            zero=np.zeros((1, d)),
        )


def _scoring_of(centers: GroupedCenters) -> tuple[Tile, TileScoring]:
    (k, d), width = centers.exact.shape, 2 * GROUP
    tile = packing.tile_for(k, d, centers.largest_norm)
    # As in `Course._packed`, but a tile adds up squares one after the other: d + 8 roundings.
    error_squares = 2 * (d + 8) * _EPS
    if not tile.matrix_panels:
        return tile, TileScoring(centers.error_factor, error_squares, *packing.NO_REGISTERS)
    weights = centers.weights[: len(centers.members) * d].reshape(-1, d, GROUP)
    rows = weights.swapaxes(1, 2).reshape(-1, d)
    pieces = (rows[some] for some in panels.some_at_a_time(len(rows), tile))
    return tile, TileScoring(
        packing.matrix_error_factor(d, width),
        error_squares,
        *packing.registers_of(pieces, centers.halves, d, tile),
    )


def can_group(centers: Centers) -> bool:
    """Return whether bounds hold for these centers: distances must obey the triangle inequality.

    For cosine the squared Euclidean distance of two directions is twice their distance. Centers
    that count as zero have no direction.
    """
    if centers.distance is not Distance.COSINE:
        return True
    squares = squared_norms(centers.values.astype(np.float64))
    return bool((squares >= SMALLEST_SQUARED_NORM).all())


def grouped(centers: FloatArray) -> IndexArray:
    """Return the indices of (k, d) centers in groups of at most 16 neighbors, (16 * groups,).

    An empty place has index -1. The centers are halved along their principal direction, and the
    halves again.
    """
    groups: list[IndexArray] = []
    waiting = [np.arange(len(centers))]
    while waiting:
        members = waiting.pop()
        if len(members) <= GROUP:
            groups.append(np.pad(members, (0, GROUP - len(members)), constant_values=-1))
            continue
        order = members[np.argsort(_along_principal_direction(centers[members]), kind="stable")]
        half = -(-len(members) // GROUP) // 2 * GROUP
        waiting += [order[half:], order[:half]]
    return np.concatenate(groups)


def _along_principal_direction(rows: FloatArray) -> FloatArray:
    """Return the places of (n, d) rows along the direction in which they vary most."""
    rows = rows - rows.mean(axis=0)
    direction = rows[np.argmax(squared_norms(rows))]
    for _ in range(_ROUNDS):
        direction = rows.T @ (rows @ direction)
        direction /= max(float(np.linalg.norm(direction)), _LEAST_LENGTH)
    return np.asarray(rows @ direction)


def _movements(before: FloatArray, after: FloatArray) -> FloatArray:
    """Return upper bounds of how far each of the (k, d) centers has moved, (k,)."""
    return np.asarray(np.sqrt(squared_norms(after - before)) * _MOVED_UP + _LEAST_LENGTH)
