"""What is the array API's own: which rows NumPy resolves, and where arrays are.

test_backends.py tests that the answers are right.
"""

import numpy as np
import pytest

from dkmeans.backends import array_api
from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.array_api import ArrayApi
from dkmeans.distance import Centers, Distance
from tests.array_device import NumpyDevice, OtherDevice


@pytest.fixture
def resolved(monkeypatch):
    """Rows that NumPy resolves exactly, in lists."""
    rows = []

    def nearest(points, centers):
        rows.append(points.tolist())
        return by_numpy.nearest(points, centers)

    monkeypatch.setattr(array_api, "on_host", type("Host", (), {"nearest": staticmethod(nearest)}))
    return rows


def centers_of(*values):
    return Centers(np.array(values, np.float32), Distance.SQUARED_EUCLIDEAN)


@pytest.mark.parametrize("device", [NumpyDevice, OtherDevice])
def test_only_ambiguous_rows_are_resolved_by_numpy(device, resolved):
    rows = np.array([[0, 0], [1, 0], [2, 0], [np.nan, 0]], np.float32)
    index, _ = ArrayApi(device()).nearest(rows, centers_of([0, 0], [2, 0]))
    assert index.tolist() == [0, 0, 1, 0]
    assert str(resolved) == "[[[1.0, 0.0], [nan, 0.0]]]"


def test_rows_are_scored_in_blocks_of_bounded_size(monkeypatch, resolved):
    monkeypatch.setattr(array_api, "_BLOCK_ELEMENTS", 12)
    rows = np.array([[i % 3, 0] for i in range(10)], np.float32)
    index, distances = ArrayApi(NumpyDevice()).nearest(rows, centers_of([0, 0], [2, 0]))
    assert index.tolist() == [int(i % 3 == 2) for i in range(10)]
    assert distances.tolist() == [float(i % 3 == 1) for i in range(10)]
    assert [len(block) for block in resolved] == [1, 1, 1]
