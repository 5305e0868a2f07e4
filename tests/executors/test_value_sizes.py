"""Sizes of values: those of all arrays in them."""

import numpy as np
import pytest

from dkmeans.distance import Centers, Distance
from dkmeans.executors.value_sizes import size_of
from dkmeans.partial_sums import StartCenters

CENTERS = np.zeros((100, 25), np.float32)


@pytest.mark.parametrize(
    ("value", "arrays"),
    [
        (CENTERS, 1),
        ((CENTERS, CENTERS), 2),
        (Centers(CENTERS, Distance.COSINE), 1),
        (StartCenters((Centers(CENTERS, Distance.COSINE),) * 3, False, True), 3),
    ],
)
def test_a_value_has_the_size_of_its_arrays_and_little_more(value, arrays):
    assert arrays * CENTERS.nbytes <= size_of(value) < arrays * CENTERS.nbytes + 1000


def test_other_values_have_some_size():
    assert 0 < size_of(None) < 100
    assert 1000 < size_of("x" * 1000) < 1100
