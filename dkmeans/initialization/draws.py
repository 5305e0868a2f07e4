"""Random draws of rows that depend on a row's number, and on nothing else but its weight.

Each row has a number u in (0, 1) of its own, made of a seed, a round and the row's number by a
counter-based generator. So whoever reads a row, in whatever chunk, draws the same.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dkmeans.distance import Distance, directions
from dkmeans.state import FloatArray, IndexArray

BitArray = NDArray[np.uint64]

# SplitMix64 (Steele, Lea and Flood 2014, Fast splittable pseudorandom number generators, figure
# 17): the step of its counter, and how it mixes one.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_LAST_SHIFT = np.uint64(31)
_SPARE_BITS = np.uint64(12)
# Cosine distances up to here are what rounding leaves between rows of the same direction.
_SAME_DIRECTION = 2.0**-46


@dataclass(frozen=True, slots=True)
class Seed:
    """What draws are keyed by.

    Attributes:
        entropy: The seed proper.
        path: What the draws are for.
    """

    entropy: int
    path: tuple[int, ...] = ()

    @classmethod
    def fresh(cls, seed: int | None) -> Seed:
        """The one that a user gave, or else one that nobody has seen."""
        return cls(secrets.randbits(128) if seed is None else seed)

    def of(self, purpose: int) -> Seed:
        """The seed of draws for another purpose, which are independent of these."""
        return replace(self, path=(*self.path, purpose))

    def generator(self) -> np.random.Generator:
        """Draws one after another, on the driver."""
        return np.random.default_rng(self._sequence())

    def uniform(self, numbers: IndexArray) -> FloatArray:
        """A number in (0, 1) for each of the (n,) row numbers, (n,) float64 of 52 random bits."""
        return _in_unit_interval(self._bits(numbers))

    def uniforms(self, numbers: IndexArray, first: int, count: int) -> FloatArray:
        """So many numbers of each row's own endless sequence, from this place on, (n, count)."""
        places = np.arange(first, first + count, dtype=np.uint64)
        return _in_unit_interval(_mixed(self._bits(numbers)[:, None] + places * _STEP))

    def _bits(self, numbers: IndexArray) -> BitArray:
        (key,) = self._sequence().generate_state(1, np.uint64)
        return _mixed(numbers.astype(np.uint64) * _STEP + key)

    def _sequence(self) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.entropy, spawn_key=self.path)


def _mixed(counter: BitArray) -> BitArray:
    """A counter's 64 bits, each of them now a coin thrown."""
    for shift, factor in _MIX:
        counter = (counter ^ counter >> shift) * factor
    return counter ^ counter >> _LAST_SHIFT


def _in_unit_interval(bits: BitArray) -> FloatArray:
    return np.asarray(((bits >> _SPARE_BITS) + 0.5) * 2.0**-52)


@dataclass(frozen=True, slots=True)
class Draw:
    """Which rows to draw, in proportion to their weights.

    Attributes:
        seed: Of the rows' numbers u.
        count: How many, l.
        is_exact: Whether so many different rows are drawn, if there are so many of any weight:
            those with the largest w / u (priority sampling: Duffield, Lund and Thorup 2007). If
            not, so many are to be expected, perhaps with copies: each row of weight w is drawn with
            probability min(1, l w / sum of all w), whatever becomes of the others.
        distance: By which rows are copies: those of the same direction, for cosine.
    """

    seed: Seed
    count: float
    is_exact: bool
    distance: Distance


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Rows drawn in proportion to their weights: a monoid under `+`.

    Where their number is only expected: the sum of all weights, s, is known at the end
    only; but u < l w / s where w / u > s / l, and s only grows. So a part keeps the rows with
    w / u > s / l for its own s, of which there are l to be expected, and loses none that is drawn
    in the end.

    Attributes:
        draw: Which were to be drawn.
        total: The sum of the weights of all rows, drawn or not.
        priorities: (m,) float64, w / u of those drawn.
        numbers: (m,) their row numbers.
        rows: (m, d) the rows themselves.
    """

    draw: Draw
    total: float
    priorities: FloatArray
    numbers: IndexArray
    rows: FloatArray

    @classmethod
    def of(cls, draw: Draw, weights: FloatArray, first: int, points: FloatArray) -> Drawn:
        """What is drawn of the consecutive (n, d) rows, the first of which has this number."""
        numbers = np.arange(first, first + len(points))
        priorities = weights / draw.seed.uniform(numbers)
        return cls(draw, float(weights.sum()), priorities, numbers, points)._cut()

    def __add__(self, other: Drawn) -> Drawn:
        return Drawn(
            self.draw,
            self.total + other.total,
            np.concatenate([self.priorities, other.priorities]),
            np.concatenate([self.numbers, other.numbers]),
            np.concatenate([self.rows, other.rows]),
        )._cut()

    def different(self) -> FloatArray:
        """The rows drawn, each of them once, (m, d); the likeliest first."""
        return self._at(self._without_copies(len(self.numbers))).rows

    def _cut(self) -> Drawn:
        """Only the rows that may be among those drawn of all."""
        if self.draw.is_exact:
            return self._at(self._without_copies(int(self.draw.count)))
        return self._at(np.flatnonzero(self.priorities > self.total / self.draw.count))

    def _at(self, places: IndexArray) -> Drawn:
        columns = self.priorities[places], self.numbers[places], self.rows[places]
        return Drawn(self.draw, self.total, *columns)

    def _without_copies(self, most: int) -> IndexArray:
        """Where the first so many different rows are, in falling order of their priorities."""
        maybe = np.flatnonzero(self.priorities > 0) if most else np.empty(0, np.int64)
        order = maybe[np.lexsort((self.numbers[maybe], -self.priorities[maybe]))]
        found: dict[bytes, int] = {}
        for place in order.tolist():
            if len(found) == most:
                break
            found.setdefault(_identity(self.rows[place], self.draw.distance), place)
        return np.fromiter(found.values(), np.int64, len(found))


def _identity(row: FloatArray, distance: Distance) -> bytes:
    """Bytes that are equal for rows that are the same."""
    if distance is Distance.COSINE:
        row = directions(row[None])[0].astype(np.float32)
    return (row + 0.0).tobytes()  # -0.0 is 0.0


def meaningful(apart: FloatArray, distance: Distance) -> FloatArray:
    """Distances (n,) as weights: zero for rows that are the same."""
    if distance is Distance.COSINE:
        return np.where(apart > _SAME_DIRECTION, apart, 0.0)
    return apart
