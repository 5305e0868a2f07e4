"""Smoke test of an installed wheel: rows in storage, a cluster, resuming, predictions, the command.

`deploy/smoke.sh` runs it in fresh environments, which have no test libraries.
"""

import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path

import dask
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from distributed import Client, LocalCluster

import dkmeans


def train(folder: Path, name: str, *limits: int) -> np.ndarray:
    """Return the centers of a model that is trained by one call for each limit."""
    rows = dkmeans.Dataset.from_zarr(str(folder / "rows.zarr"))
    for limit in limits:
        model = dkmeans.KMeans(8, folder / name, "k-means||", seed=1, use_mini_batch=False)
        model.train(lambda: rows, max_steps=limit)
    return model.cluster_centers()


def command(*arguments: str) -> str:
    """Return what the installed command prints."""
    program = Path(sys.executable).with_name("dkmeans")
    return subprocess.check_output([program, *arguments], text=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = np.random.default_rng(0).normal(size=(20_000, 5)).astype(np.float32)
        zarr.create_array(str(folder / "rows.zarr"), data=rows, chunks=(2_000, 5))
        centers = train(folder, "threads", 4)
        assert (train(folder, "resumed", 2, 4) == centers).all()
        with (
            LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster),
        ):
            assert (train(folder, "cluster", 4) == centers).all()
        table, output = str(folder / "rows.parquet"), str(folder / "clusters.parquet")
        pq.write_table(pa.table({f"c{i}": rows[:, i] for i in range(5)}), table)
        model = str(folder / "threads")
        command("predict", table, "--model-dir", model, "--output", output, "--keep", "c0")
        index = pq.read_table(output)["cluster_index"].to_numpy()
        distances = ((rows[:, None].astype(np.float64) - centers) ** 2).sum(axis=2)
        assert (index == distances.argmin(axis=1)).all()
        assert command("--version").split()[-1] == importlib.metadata.version("dkmeans")
    versions = f"NumPy {np.__version__}, Dask {dask.__version__}, Zarr {zarr.__version__}"
    versions += f", Arrow {pa.__version__}"
    print(f"dkmeans {dkmeans.__version__} works: Python {sys.version.split()[0]}, {versions}")


if __name__ == "__main__":
    main()
