"""The bound of the error of scores, and rows that are resolved exactly."""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkmeans.backends.cuda import nearest_centers
from dkmeans.distance import Centers, Distance
from dkmeans.float_pairs import FloatArray
from tests.backends.cuda.problems import DTYPES, assert_nearest, needs_compiler
from tests.reference import METRICS


class Scoring(NamedTuple):
    """What one launch of `score_N` got and found.

    Attributes:
        rows: The numbers of the rows.
        ratios: 2^(row's exponent - center's exponent) of each row.
        margins: By how much two scores must differ to be certain.
        limits: The least score plus the margin, of each ambiguous row by its number.
    """

    rows: list[int]
    ratios: FloatArray
    margins: FloatArray
    limits: dict[int, np.float32]


def scorings(device):
    """Yield what the launches of `score_N` got and found, in order."""
    for kernel, arguments in device.launched:
        if not kernel.startswith("score"):
            continue
        # The arguments of PRODUCT in nearest.cu come first: `ratios`, `n` and `k` are the last.
        ratios, n = arguments[7:9]
        margins, numbers, _, ambiguous, limits, count = arguments[10:]
        rows = numbers[:n].tolist() if isinstance(numbers, np.ndarray) else list(range(n))
        found = slice(int(count[0]))
        yield Scoring(
            rows, ratios, margins, dict(zip(ambiguous[found].tolist(), limits[found], strict=True))
        )


def nearest_with(device, backend, rows, centers, digits):
    """Check nearest centers, found with so many digits at first; return the centers' exponent."""
    prepared = backend._prepared(centers, rows.dtype)
    prepared.digits = digits
    device.launched.clear()
    assert_nearest(backend, rows, centers)
    return int(backend._prepared.product(prepared, digits).lengths[0])


# Rows whose scores have large errors, or are hard to bound.
KINDS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "equal": lambda rng, shape: np.broadcast_to(rng.normal(size=shape[1]), shape),
    "ones": lambda rng, shape: np.ones(shape),
    # Sums of products of such rows cancel.
    "alternating": lambda rng, shape: rng.random(shape) * (-1.0) ** np.arange(shape[1]),
    "one huge column": lambda rng, shape: rng.normal(size=shape) * ([1e6] + [1] * (shape[1] - 1)),
    # Each rounds down to float16 by almost as much as possible.
    "rounded down": lambda rng, shape: np.full(shape, 1 + 2**-11 - 2**-20),
    # Beside the largest value: around the largest and the least float16 numbers, and half of it.
    "limits of float16": lambda rng, shape: rng.choice(
        [1, -65504 / 65536, 65519.9 / 65536, 2.0**-29, -(2.0**-39), 2.0**-40, 2.0**-41], shape
    ),
}

SCALES = (1e-39, 1e-37, 1e-20, 1.0, 1e5, 1e30)


@st.composite
def values_of_any_kind(draw, d):
    """Draw a function that returns n rows."""
    kind, scale = draw(st.sampled_from(sorted(KINDS))), draw(st.sampled_from(SCALES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return lambda n: KINDS[kind](rng, (n, d)) * scale


def assert_errors_within_margins(device, backend, rows, center, digits):
    """Check the least scores of rows with exact ones; return the largest error in margins.

    The centers are copies of one center and of its opposite. So their mean is zero, and all rows
    are ambiguous: the launch of `score_N` returns limits for them, and so their least scores.
    """
    centers = Centers(np.tile([center, -center], (64, 1)), Distance.SQUARED_EUCLIDEAN)
    exponent = nearest_with(device, backend, rows, centers, digits)
    factors = [Fraction(float(c)) for c in center]
    half = sum(c * c for c in factors) / 2
    largest = 0.0
    scoring = next(scorings(device))
    for row, ratio, margin in zip(scoring.rows, scoring.ratios, scoring.margins, strict=True):
        limit = scoring.limits[row]
        if not np.isfinite(margin):
            continue
        products = (Fraction(float(x)) * c for x, c in zip(rows[row], factors, strict=True))
        unit = Fraction(float(ratio)) * Fraction(2) ** (2 * exponent)
        exact = (half - abs(sum(products))) * unit
        error = abs(Fraction(float(limit)) - Fraction(float(margin)) - exact)
        # The sum of score and margin is rounded to float32.
        error -= Fraction(float(abs(limit) + margin)) / 2**24
        largest = max(largest, float(error / Fraction(float(margin))))
    assert largest <= 0.5, "two scores may be wrong by more than the margin"
    return largest


@needs_compiler
@pytest.mark.parametrize("scale", [7e42, 1e100, 1e149])
@pytest.mark.parametrize("number", [0, 3])
def test_rows_and_centers_that_float16_cannot_hold_are_resolved(on_host, number, scale):
    rng = np.random.default_rng(0)
    rows, values = rng.normal(size=(40, 5)), rng.normal(size=(20, 5))
    rows[number] *= scale
    for centers in (values, np.concatenate([values, rows[number : number + 1]])):
        assert_nearest(on_host, rows, Centers(centers, Distance.SQUARED_EUCLIDEAN))


@needs_compiler
@given(st.data(), st.integers(1, 40), st.sampled_from([1, 2]), st.sampled_from(DTYPES))
def test_the_error_of_two_scores_is_within_the_margin(device, on_host, data, d, digits, dtype):
    rows = data.draw(values_of_any_kind(d))(12).astype(dtype)
    center = data.draw(values_of_any_kind(d))(1)[0].astype(dtype)
    assert_errors_within_margins(device, on_host, rows, center, digits)


@needs_compiler
@pytest.mark.parametrize(("digits", "share"), [(1, 0.4), (2, 0.001)])
def test_the_margin_is_not_much_larger_than_the_largest_error(device, on_host, digits, share):
    rows = KINDS["rounded down"](None, (4, 32)).astype("f")
    assert assert_errors_within_margins(device, on_host, rows, rows[0], digits) > share


@needs_compiler
@given(st.data(), st.integers(1, 40), st.sampled_from([1, 2]), st.sampled_from(DTYPES))
def test_a_row_that_is_not_ambiguous_has_its_nearest_center(
    device, on_host, data, d, digits, dtype
):
    # Rows halfway between centers, almost halfway, and anywhere.
    values, noise = (data.draw(values_of_any_kind(d)) for _ in range(2))
    centers = values(128)
    rows = np.concatenate([centers[:16], noise(4), (centers[:12] + centers[1:13]) / 2])
    rows[20:26] += noise(6) * data.draw(st.sampled_from([0, 1e-6, 1e-3, 1]))
    centers = Centers(centers.astype(dtype), Distance(data.draw(st.sampled_from(METRICS))))
    nearest_with(device, on_host, rows.astype(dtype), centers, digits)


@needs_compiler
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [7, 100, 128, 200, 256, 300])
def test_rows_near_one_of_distant_centers_are_not_ambiguous(device, on_host, k, metric):
    rng = np.random.default_rng(k)
    values = rng.normal(size=(k, 24))
    rows = (np.repeat(values, 2, axis=0) + rng.normal(size=(2 * k, 24)) / 100).astype("f")
    nearest_with(device, on_host, rows, Centers(values, Distance(metric)), 1)
    assert [len(scoring.limits) for scoring in scorings(device)] == [0]


@needs_compiler
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("equal", [2, 130])
def test_rows_with_more_equal_centers_than_there_is_room_for_are_right(
    device, on_host, equal, metric, monkeypatch
):
    monkeypatch.setattr(nearest_centers, "_PAIRS_PER_ROW", 1)
    monkeypatch.setattr(nearest_centers, "_FEWEST_PAIRS", 8)
    rng = np.random.default_rng(equal)
    values = rng.normal(size=(130, 5)).astype("f")
    values[-equal:] = values[-1]
    rows = (values[rng.integers(130, size=90)] + rng.normal(size=(90, 5)) / 50).astype("f")
    nearest_with(device, on_host, rows, Centers(values, Distance(metric)), 1)
    kernels = [kernel for kernel, _ in device.launched]
    if equal == 130:
        assert kernels.count("score_256") == 2
        assert kernels[-2] == "resolve"


@needs_compiler
@pytest.mark.parametrize("scale", [1e151, 1e200])
def test_rows_of_very_large_numbers_are_resolved_exactly(device, on_host, scale):
    rng = np.random.default_rng(1)
    values, rows = rng.normal(size=(128, 5)), rng.normal(size=(60, 5))
    centers = Centers(values * scale, Distance.SQUARED_EUCLIDEAN)
    nearest_with(device, on_host, rows * scale, centers, 1)
    assert "resolve" in [kernel for kernel, _ in device.launched]
    # One large row beside others.
    rows[7] *= scale
    nearest_with(device, on_host, rows, Centers(values, Distance.SQUARED_EUCLIDEAN), 1)
    assert 7 in next(scorings(device)).limits
