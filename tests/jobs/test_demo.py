"""The demo, on real flights."""

from pathlib import Path

import numpy as np
from pyarrow import parquet


def test_the_demo_clusters_real_flights(run_json, tmp_path):
    result = run_json("demo", "--directory", tmp_path / "demo")
    assert result["flights"] == sum(result["cluster_sizes"]) == 327_346
    assert min(result["cluster_sizes"]) > 0
    clusters = parquet.read_table(result["predictions"])
    assert clusters.column_names == ["carrier", "flight", "dest", "cluster_index"]
    found = np.bincount(clusters["cluster_index"].to_numpy())
    assert found.tolist() == result["cluster_sizes"]
    assert "minutes_late" in Path(result["report"]).read_text()
