"""Who computes otherwise than NumPy is not trusted with rows."""

import logging

import numpy as np
import pytest

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.array_api import ArrayApi
from dkmeans.backends.trial import first_right
from dkmeans.distance import Distance
from dkmeans.state import PartialSums
from tests.array_device import NumpyDevice


class Wrong:
    """NumPy, but for one thing."""

    def __init__(self, what):
        self.what = what

    def assign(self, points, centers):
        sums, index, apart = by_numpy.assign(points, centers)
        if self.what == "winner of the last row of many centers" and len(centers.values) > 100:
            index[-1] = (index[-1] + 1) % len(centers.values)
        if self.what == "sums by cosine" and centers.distance is Distance.COSINE:
            sums = PartialSums(sums.sums + 1e-6, sums.counts, sums.inertia)
        if self.what == "distances in float64" and points.dtype == np.float64:
            apart = apart.astype(np.float32)
        return sums, index, apart

    def distances(self, points, centers):
        found = by_numpy.distances(points, centers)
        return found + 1 if self.what == "all distances" else found


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("winner of the last row of many centers", "float32, squared_euclidean, 200 centers"),
        ("sums by cosine", "float32, cosine, 7 centers"),
        ("distances in float64", "float64, squared_euclidean, 7 centers"),
        ("all distances", "distances, float32, squared_euclidean, 7 centers"),
    ],
)
def test_the_first_way_that_is_right_is_taken_and_the_log_says_what_is_wrong(what, told, caplog):
    right = ArrayApi(NumpyDevice())
    with caplog.at_level(logging.WARNING):
        name, way = first_right({"kernels": lambda: Wrong(what), "functions": lambda: right})
    assert (name, way) == ("functions", right)
    assert caplog.messages == [f"kernels give other answers than NumPy ({told}); please report it"]


def test_where_none_is_right_the_error_says_why():
    def broken():
        raise RuntimeError("no compiler")

    ways = {"kernels": broken, "functions": lambda: Wrong("all distances")}
    with pytest.raises(ImportError, match="kernels cannot be used: no compiler; functions give"):
        first_right(ways)
