"""The layout of centers in panels, and memory on cache lines."""

import numpy as np
import pytest

from dkmeans.backends.native import panels
from dkmeans.backends.native.llvm_code import CACHE_LINE_BYTES


@pytest.mark.parametrize("k", [1, 31, 32, 33, 2100])
def test_panels_have_the_centers_feature_by_feature_and_zeros_after_the_last(k):
    tile, d = panels.tile_of(np.float32), 3
    rows = np.arange(k * d, dtype=np.float32).reshape(k, d) + 1
    pieces = (rows[some] for some in panels.some_at_a_time(k, tile))
    found = panels.in_panels(pieces, (k, d), np.float32, tile)
    assert found.ctypes.data % CACHE_LINE_BYTES == 0
    centers = found.reshape(-1, d, len(tile.centers)).swapaxes(1, 2).reshape(-1, d)
    assert len(centers) == panels.padded_count(k, tile)
    assert np.array_equal(centers[:k], rows)
    assert not centers[k:].any()


def test_numbers_are_padded_to_the_next_multiple_of_eight():
    assert [panels.padded(count) for count in (1, 7, 8, 9)] == [8, 8, 8, 16]
