"""First scores in 8 bits are used where they save time."""

import numpy as np
import pytest

from dkmeans.backends.native import packed_centers, processor
from dkmeans.distance import Centers, Distance

DTYPES = (np.float32, np.float64)


def centers_of(values, metric=Distance.SQUARED_EUCLIDEAN):
    return Centers(values, Distance(metric))


@pytest.mark.parametrize(("unit", "k", "d"), [("vectors", 128, 64), ("matrix", 512, 128)])
def test_first_scores_in_eight_bits_are_used_for_large_problems_only(unit, k, d, monkeypatch):
    has_products = processor.matrix_unit() if unit == "matrix" else processor.multiplies_bytes()
    if not has_products:
        pytest.skip("this processor does not multiply bytes")
    monkeypatch.setattr(processor, "matrix_unit", lambda: unit == "matrix")

    def is_used(k, d, dtype=np.float32, **options):
        centers = centers_of(np.random.default_rng(0).normal(size=(k, d)).astype(dtype))
        return bool(
            packed_centers.PackedCentersCache()(centers, np.dtype(dtype), **options)[0].in_bytes
        )

    assert is_used(k, d)
    assert is_used(k, d, np.float64)
    assert is_used(k * d // 16, 16)
    assert not is_used(k * d // 15 + 1, 15)
    assert not is_used(k - 1, 2 * d)
    assert not is_used(k, d - 1)
    assert not is_used(k, d, with_second=True)
    assert is_used(1024, 64, with_second=True) is (unit == "vectors")
