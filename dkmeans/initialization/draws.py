"""Random draws of rows that depend only on a row's number and weight.

Each row has a random value u in (0, 1), computed from a seed and the row's number by a
counter-based generator. Every worker that reads the row, in whatever chunk, computes the same u and
so makes the same draw. `kmeans_parallel` draws its candidates with it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dkmeans.distance import (
    SAME_DIRECTION,
    SMALLEST_SQUARED_NORM,
    Distance,
    directions,
    squared_norms,
)
from dkmeans.exact_grid import BoolArray
from dkmeans.exact_total import ExactTotal, total_of
from dkmeans.state import FloatArray, IndexArray

BitArray = NDArray[np.uint64]

# SplitMix64 (Steele, Lea and Flood 2014, Fast splittable pseudorandom number generators, figure
# 17): the step of its counter, and the shifts and factors that mix the counter's bits.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST_SHIFT = np.uint64(31)
# A 52-bit integer plus 0.5 is exact in float64, and u is never 0 or 1.
_SPARE_BITS = np.uint64(12)


@dataclass(frozen=True, slots=True)
class Seed:
    """Seed of some draws.

    Attributes:
        entropy: The seed of the fit.
        path: Purpose of the draws, as numbers.
    """

    entropy: int
    path: tuple[int, ...] = ()

    @classmethod
    def fresh(cls, seed: int | None) -> Seed:
        """Return the user's seed, or for None a new random one."""
        return cls(secrets.randbits(128) if seed is None else seed)

    def of(self, purpose: int) -> Seed:
        """Return the seed of draws for another purpose, independent of these."""
        return replace(self, path=(*self.path, purpose))

    def generator(self) -> np.random.Generator:
        """Return a generator for draws on the driver, one after another."""
        return np.random.default_rng(self._sequence())

    def uniform(self, numbers: IndexArray) -> FloatArray:
        """Return u of each of the (n,) row numbers, (n,) float64 in (0, 1) with 52 random bits."""
        (key,) = self._sequence().generate_state(1, np.uint64)
        bits = _mixed(numbers.astype(np.uint64) * _STEP + key)
        return np.asarray(((bits >> _SPARE_BITS) + 0.5) * 2.0**-52)

    def _sequence(self) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.entropy, spawn_key=self.path)


def _mixed(counter: BitArray) -> BitArray:
    """Return 64 random bits for each value of a counter."""
    for shift, factor in _MIX:
        counter = (counter ^ counter >> shift) * factor
    return counter ^ counter >> _LAST_SHIFT


@dataclass(frozen=True, slots=True)
class Draw:
    """Which rows to draw, in proportion to their weights.

    Attributes:
        seed: Seed of the rows' random values u.
        count: Number of rows l.
        is_exact: True to draw l different rows, if there are that many with a weight: those with
            the largest w / u (priority sampling: Duffield, Lund and Thorup 2007). False to draw l
            rows in expectation, perhaps equal ones: each row of weight w is drawn with probability
            min(1, l w / sum of all w), independently of the others.
        distance: The distance by which two rows are equal: for cosine, if they have the same
            direction.
    """

    seed: Seed
    count: float
    is_exact: bool
    distance: Distance


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Rows drawn in proportion to their weights: a monoid under `+`.

    For an inexact draw, a row is drawn if u < l w / s, where s is the sum of all weights, known
    after the last addition only. The condition is the same as w / u > s / l, and s only grows. So a
    part drops the rows with w / u <= its own s / l. About l rows stay, and no row of the result is
    lost.

    Attributes:
        draw: The draw.
        total: Sum of the weights of all rows, drawn or not.
        priorities: (m,) float64, w / u of the drawn rows.
        numbers: (m,) their row numbers.
        rows: (m, d) the rows.
    """

    draw: Draw
    total: ExactTotal
    priorities: FloatArray
    numbers: IndexArray
    rows: FloatArray

    @classmethod
    def of(cls, draw: Draw, weights: FloatArray, first: int, points: FloatArray) -> Drawn:
        """Draw from consecutive (n, d) rows, from number `first` on, with their (n,) weights."""
        numbers = np.arange(first, first + len(points))
        priorities = weights / draw.seed.uniform(numbers)
        return cls(draw, total_of(weights), priorities, numbers, points)._cut()

    def __add__(self, other: Drawn) -> Drawn:
        return Drawn(
            self.draw,
            self.total + other.total,
            np.concatenate([self.priorities, other.priorities]),
            np.concatenate([self.numbers, other.numbers]),
            np.concatenate([self.rows, other.rows]),
        )._cut()

    def different(self) -> FloatArray:
        """Return one of each set of equal drawn rows, (m, d), by falling priority."""
        return self._at(self._distinct(len(self.numbers))).rows

    def _cut(self) -> Drawn:
        """Drop the rows that cannot be among the drawn rows of all parts together."""
        if self.draw.is_exact:
            return self._at(self._distinct(int(self.draw.count)))
        return self._at(np.flatnonzero(self.priorities > float(self.total) / self.draw.count))

    def _at(self, places: IndexArray) -> Drawn:
        columns = self.priorities[places], self.numbers[places], self.rows[places]
        return Drawn(self.draw, self.total, *columns)

    def _distinct(self, most: int) -> IndexArray:
        """Return the places of the first `most` different rows, by falling priority."""
        weighted = np.flatnonzero(self.priorities > 0) if most else np.empty(0, np.int64)
        # Equal priorities by row number, whichever part came first.
        order = weighted[np.lexsort((self.numbers[weighted], -self.priorities[weighted]))]
        found: dict[bytes, int] = {}
        for place in order.tolist():
            if len(found) == most:
                break
            found.setdefault(_identity(self.rows[place], self.draw.distance), place)
        return np.fromiter(found.values(), np.int64, len(found))


def _identity(row: FloatArray, distance: Distance) -> bytes:
    """Return bytes that are the same for equal rows."""
    if distance is Distance.COSINE:
        row = directions(lengthened(row[None], distance))[0].astype(np.float32)
    return (row + 0.0).tobytes()  # makes -0.0 and 0.0 the same bytes


def as_weights(distances: FloatArray, points: FloatArray, distance: Distance) -> FloatArray:
    """Return distances to nearest centers as weights: zero if no other center can be nearer.

    Rounding errors between equal rows become zero. By cosine a row shorter than
    `SMALLEST_SQUARED_NORM` allows is scaled to a length |u| below one. Its distance to a center is
    at least 1 - |u|, even if both have the same direction: this part is no weight. So a zero row
    has none.

    Args:
        distances: (n,) float64, the distance of each row to its nearest center.
        points: (n, d) the rows.
        distance: The distance.
    """
    if distance is not Distance.COSINE:
        return distances
    weights = distances.copy()
    short = _short(points)
    weights[short] -= 1.0 - np.linalg.norm(directions(points[short]), axis=1)
    return np.where(weights > SAME_DIRECTION, weights, 0.0)


def lengthened(rows: FloatArray, distance: Distance) -> FloatArray:
    """Return the (n, d) rows; by cosine, short rows are scaled to length one if they can be.

    A short row as a center is then nearer to its own direction than any other center. A zero row
    stays zero.
    """
    short = _short(rows) if distance is Distance.COSINE else np.empty(0, np.int64)
    if not len(short):
        return rows
    rows = rows.copy()
    wide = rows[short].astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    rows[short] = wide / np.where(lengths > 0, lengths, 1.0)
    return rows


def has_direction(rows: FloatArray, distance: Distance) -> BoolArray:
    """Return whether rows can be centers that others are near to, (n,) bool.

    By cosine a row that is zero, but for rounding errors, cannot.
    """
    found = np.ones(len(rows), bool)
    if distance is Distance.COSINE:
        short = _short(rows)
        found[short] = np.linalg.norm(directions(rows[short]), axis=1) > SAME_DIRECTION
    return found


def _short(rows: FloatArray) -> IndexArray:
    """Return the numbers of the (n, d) rows that cosine cannot scale to length one, (m,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        # In the rows' dtype, with a margin for its rounding errors: few rows are converted.
        near = np.flatnonzero(np.vecdot(rows, rows) < 2 * SMALLEST_SQUARED_NORM)
    return near[squared_norms(rows[near].astype(np.float64)) < SMALLEST_SQUARED_NORM]
