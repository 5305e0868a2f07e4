"""Work arrays of threads carry nothing from one problem to another."""

import numpy as np
import pytest

from dkmeans.backends.native import backend as native
from dkmeans.distance import Centers, Distance
from tests.exactly import same_partial_sums
from tests.reference import METRICS

DTYPES = (np.float32, np.float64)


def centers_of(values, metric=Distance.SQUARED_EUCLIDEAN):
    return Centers(values, Distance(metric))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_the_scratch_of_a_thread_carries_nothing_over_to_another_shape(metric, dtype):
    rng = np.random.default_rng(1)
    problems = []
    for n, d, k in ((50, 3, 4), (9, 130, 2), (70, 17, 60), (33, 3, 5)):
        rows = rng.normal(size=(n, d)).astype(dtype)
        problems.append((rows, centers_of(rows[:k].copy(), metric)))
    first = [native.partial_sums(*problem) for problem in problems]
    again = [native.partial_sums(*problem) for problem in reversed(problems)]
    for one, other in zip(first, reversed(again), strict=True):
        assert same_partial_sums(one, other)
