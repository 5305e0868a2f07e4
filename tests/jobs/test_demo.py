"""The demo, on real flights."""

import numpy as np
import zarr


def test_the_demo_clusters_real_flights(run_json, tmp_path):
    result = run_json("demo", "--directory", tmp_path / "demo")
    assert result["flights"] == sum(result["cluster_sizes"]) == 327_346
    assert min(result["cluster_sizes"]) > 0
    index = zarr.open_group(result["predictions"], mode="r")["cluster_index"]
    assert np.bincount(index[:]).tolist() == result["cluster_sizes"]
