"""An implementation with other answers than NumPy's is not used."""

import logging

import numpy as np
import pytest

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.array_api import ArrayApi
from dkmeans.backends.cuda.trial import first_correct
from dkmeans.distance import Distance
from dkmeans.state import PartialSums
from tests.array_device import NumpyDevice


class Wrong:
    """NumPy's answers with one error.

    Args:
        error: Name of the error.
    """

    def __init__(self, error):
        self.error = error

    def assign(self, points, centers):
        sums, index, distances = by_numpy.assign(points, centers)
        if self.error == "index of the last row of many centers" and len(centers.values) > 100:
            index[-1] = (index[-1] + 1) % len(centers.values)
        if self.error == "sums by cosine" and centers.distance is Distance.COSINE:
            sums = PartialSums(sums.sums + 1e-6, sums.counts, sums.inertia)
        if self.error == "distances in float64" and points.dtype == np.float64:
            distances = distances.astype(np.float32)
        return sums, index, distances

    def distances(self, points, centers):
        result = by_numpy.distances(points, centers)
        return result + 1 if self.error == "all distances" else result


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        ("index of the last row of many centers", "float32, squared_euclidean, 200 centers"),
        ("sums by cosine", "float32, cosine, 7 centers"),
        ("distances in float64", "float64, squared_euclidean, 7 centers"),
        ("all distances", "distances, float32, squared_euclidean, 7 centers"),
    ],
)
def test_the_first_correct_implementation_is_used_and_the_log_names_the_error(
    error, logged, caplog
):
    correct = ArrayApi(NumpyDevice())
    with caplog.at_level(logging.WARNING):
        name, implementation = first_correct(
            {"kernels": lambda: Wrong(error), "functions": lambda: correct}
        )
    assert (name, implementation) == ("functions", correct)
    assert caplog.messages == [
        f"kernels give other answers than NumPy ({logged}); please report it"
    ]


def test_if_no_implementation_is_correct_the_error_has_all_reasons():
    def broken():
        raise RuntimeError("no compiler")

    implementations = {"kernels": broken, "functions": lambda: Wrong("all distances")}
    with pytest.raises(ImportError, match="kernels cannot be used: no compiler; functions give"):
        first_correct(implementations)
