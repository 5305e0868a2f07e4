"""Exact sums as Python's integers, so that tests can compare them however they are stored."""

import numpy as np

from dkmeans import checkpoints
from dkmeans.exact import of_rows

# Every sum is a multiple of 2^-4000: the least plane of the finest grid.
_EXPONENT = 4000


def sums_of(values):
    """Return exact sums that are these values, (k, d)."""
    values = np.asarray(values, np.float64)
    return of_rows(values, np.arange(len(values)), len(values))


def units(sums):
    """Return the sums of each cluster and column, (k, d) Python integers in units of 2^-4000."""
    exponents = sums.grid.exponents.tolist()
    total = np.zeros(sums.shape, object)
    for m, plane in sums.in_planes().planes.items():
        factors = np.array([2 ** (_EXPONENT + e + 32 * m) for e in exponents], object)
        total += plane.astype(object) * factors
    return total


def floats(sums):
    """Return the sums rounded to float64, (k, d)."""
    return sums.means(np.ones(sums.shape[0], np.int64))


def same_sums(one, other):
    """Return whether exact sums are equal."""
    return one.shape == other.shape and bool((units(one) == units(other)).all())


def same_partial_sums(one, other):
    """Return whether the sums, counts and squares of two partial sums are equal."""
    return (
        same_sums(one.sums, other.sums)
        and one.counts.tolist() == other.counts.tolist()
        and one.squares == other.squares
    )


def state_of(model_dir):
    """Return the state of a model's latest checkpoint."""
    return checkpoints.latest(str(model_dir)).state


def same_state(one, other):
    """Return whether two states have the same step and the same bits."""
    return (
        one.step == other.step
        and one.centers.tobytes() == other.centers.tobytes()
        and one.inertia == other.inertia
    )
