"""Requests: what can be written beside the cluster index."""

import pytest

from dkmeans import Invalid, KMeans


def test_more_centers_than_there_are_are_refused(model, rows, tmp_path):
    with pytest.raises(Invalid, match="top must be at most the number of clusters, 4, got 5"):
        model.write_predictions(lambda: rows, tmp_path / "o.zarr", top=5)
    with pytest.raises(Invalid, match="top must be an integer >= 1, got 0"):
        model.write_predictions(lambda: rows, tmp_path / "o.zarr", top=0)
    one = KMeans(1, str(tmp_path / "one")).train(lambda: rows, steps=1)
    with pytest.raises(Invalid, match="second must come with at least 2 clusters, got 1"):
        one.write_predictions(lambda: rows, tmp_path / "o.zarr", second=True)
