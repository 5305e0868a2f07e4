"""The kernels that move products: the rows that are found to have moved."""

import numpy as np

from dkmeans.backends.native.products import find_changes


def test_the_rows_whose_clusters_have_changed_are_found_in_order():
    before, after = np.array([0, 1, 2, 1], np.int32), np.array([0, 2, 2, 0])
    changes = np.full(4, -1)
    assert find_changes(before, after, changes) == 2
    assert changes[:2].tolist() == [1, 3]
