"""Fixtures of the tests of the native backend."""

import numpy as np
import pytest

from dkmeans.backends.native import packed_bytes, packed_centers, packing, processor


@pytest.fixture(scope="module", params=["vectors", "matrix"])
def byte_unit(request):
    """Unit that computes first scores in 8 bits, for any problem."""
    has_products = (
        processor.matrix_unit if request.param == "matrix" else processor.multiplies_bytes
    )
    if not has_products():
        pytest.skip("this processor does not multiply bytes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processor, "matrix_unit", lambda: request.param == "matrix")
        patch.setattr(packing, "_is_large", lambda k, d: True)
        patch.setattr(packed_bytes, "_gains_by_bytes", lambda tile, k, d: True)
        # Of coarse scores too: no other scoring takes their place.
        patch.setattr(packed_centers, "_AMBIGUOUS_SHARE", np.inf)
        patch.setattr(packed_centers, "takes_long_again", lambda *_: False)
        yield request.param
