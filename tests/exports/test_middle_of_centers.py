"""The middle of centers: near their mean, and rows of few digits keep few digits."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal

from dkmeans import KMeans
from dkmeans.exports.middle_of_centers import middle_of


@given(arrays(np.float64, (4, 3), elements=st.floats(-1e300, 1e300)))
def test_the_middle_is_near_the_mean(centers):
    distance = np.abs(middle_of(centers)[0] - centers.mean(axis=0))
    assert (distance <= np.ptp(centers, axis=0) / 8 + 1e-15 * np.abs(centers).max()).all()


@given(arrays(np.int64, (4, 3), elements=st.integers(-1000, 1000)))
def test_the_middle_of_whole_numbers_has_few_digits(centers):
    sixteenths = middle_of(centers.astype(np.float32)) * 16
    is_equal = np.ptp(centers, axis=0) == 0
    assert (np.rint(sixteenths) == sixteenths)[0][~is_equal].all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_as_far_from_two_centers_get_the_first_one_also_by_the_export(tmp_path, dtype):
    rng = np.random.default_rng(2)
    axis = np.arange(-4, 4.5, 0.5)
    rows = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2).astype(dtype)
    ties = 0
    for number in range(20):
        centers = rng.integers(-5, 6, (5, 2)).astype(dtype)
        model = KMeans(None, tmp_path / str(number), centers, use_mini_batch=False)
        model.train(lambda centers=centers: centers, steps=1)
        centers = model.cluster_centers()
        distances = ((rows[:, None].astype(np.float64) - centers) ** 2).sum(axis=2)
        ties += (distances == distances.min(axis=1, keepdims=True)).sum() - len(rows)
        model.export_onnx(tmp_path / "model.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        (index,) = session.run(["cluster_index"], {"rows": rows})
        assert_array_equal(index, distances.argmin(axis=1))
    assert ties > 100
