"""The kernel of bounds: for any width of the vectors."""

import numpy as np
import pytest

from dkmeans.backends.native import backend as native
from dkmeans.backends.native import bounds, processor
from dkmeans.backends.native.bounds import Waiting
from dkmeans.backends.native.runner import kernel_array
from dkmeans.distance import Centers, Distance
from tests.exactly import same_partial_sums


@pytest.mark.parametrize("width", [16, 64])
def test_the_width_of_the_vectors_changes_nothing(width, monkeypatch):
    rng = np.random.default_rng(0)
    rows = kernel_array(rng.normal(size=(500, 21)).astype(np.float32))
    values = [(rows[:60] + 0.1 * i).astype(np.float32) for i in range(3)]
    expected = [native.partial_sums(rows, Centers(each, Distance("cosine"))) for each in values]
    monkeypatch.setattr(processor, "vector_bytes", lambda: width)
    monkeypatch.setattr(processor, "matrix_unit", lambda: False)
    monkeypatch.setattr(bounds, "_USELESS_SHARE", 9.0)
    found = None
    for each, result in zip(values, expected, strict=True):
        centers = Centers(each, Distance("cosine"))
        if found is None:
            found = bounds.begin(rows, centers, Waiting(), "a fit", with_sums=True).bounds
        else:
            found = bounds.advance(rows, centers, found).bounds
        assert same_partial_sums(found.sums, result)
