"""Pieces of rows: results do not depend on them."""

import numpy as np
import pytest

from dkmeans.backends import numpy as by_numpy
from dkmeans.backends.cuda.launches import Launches
from tests.backends.cuda.problems import assert_same_sums, needs_compiler, problem
from tests.reference import METRICS


@needs_compiler
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [4, 40])
def test_rows_may_come_in_any_number_of_pieces(device, on_host, k, metric):
    rows, centers = problem(k, 6, np.float32, metric, n=260)
    whole, (index, distances) = on_host.partial_sums(rows, centers), on_host.nearest(rows, centers)
    everything = on_host.distances(rows, centers)
    # The kernel of few centers has no results for each row.
    in_pieces = Launches(device, piece_bytes=1500 if k == 4 else 7000)
    device.launched.clear()
    sums = in_pieces.partial_sums(rows, centers).on_host()
    assert [kernel for kernel, _ in device.launched].count("carry") > 3
    assert_same_sums(sums, whole.on_host())
    assert in_pieces.squares(rows) == on_host.squares(rows) == by_numpy.squares(rows)
    assert in_pieces.nearest(rows, centers)[0].tolist() == index.tolist()
    assert in_pieces.nearest(rows, centers)[1].tolist() == distances.tolist()
    assert in_pieces.distances(rows, centers).tobytes() == everything.tobytes()
