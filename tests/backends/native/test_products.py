"""The kernels that move products: the rows that are found to have moved."""

import numpy as np
import pytest

from dkmeans.backends.native.products import find_changes, new_scratch


@pytest.mark.parametrize("n", [1, 15, 16, 17, 100])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_the_rows_whose_clusters_have_changed_are_found_in_order(n, share):
    rng = np.random.default_rng(n)
    before = rng.integers(0, 9, n).astype(np.int32)
    has_changed = rng.random(n) < share
    after = np.where(has_changed, before + 1, before).astype(np.int32)
    after.flags.writeable = False
    scratch, rows_and_weights = new_scratch(), (np.zeros((n, 2)), np.ones(n))
    for start in (0, 3):
        found = find_changes(*rows_and_weights, before, after, min(start, n), n, scratch)
        rows = start + np.flatnonzero(has_changed[start:])
        assert scratch.changes[:found].tolist() == rows.tolist()
