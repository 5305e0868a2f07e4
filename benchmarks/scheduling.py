"""What an iteration costs beside the computing: chunks of one row, a function that does nothing."""

import statistics
import time
from dataclasses import dataclass

import numpy as np
from distributed import Client, LocalCluster

from dkmeans.batches import Batch
from dkmeans.chunks import Chunk
from dkmeans.executors import Dask


@dataclass(frozen=True)
class Blank:
    """So many chunks of one row, which nobody reads."""

    rows: int
    name: str = "blank"
    first: int = 0
    width: int = 1
    dtype: str = "float32"
    chunk_rows: int = 1
    key: None = None
    parts: tuple = ()
    is_repeatable: bool = False

    def read(self, start, stop):  # noqa: D102
        return np.zeros((stop - start, 1), np.float32)

    def with_leaves(self, change):  # noqa: D102
        return change(self)


def nothing(chunk, value):
    return 1


def main():
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        value = np.zeros((1000, 64))
        for chunks in (100, 1000, 10_000, 100_000, 1_000_000):
            batch = Batch((Chunk(Blank(chunks), 0, chunks),))
            times = []
            with Dask(client) as executor:
                for _ in range(15 if chunks < 1e6 else 4):
                    began = time.perf_counter()
                    (done,) = executor.map_reduce(nothing, [batch], value)
                    times.append(time.perf_counter() - began)
                    assert done == chunks
            print(
                chunks,
                f"median {statistics.median(times) * 1e3:.1f} ms, least {min(times) * 1e3:.1f}",
            )


if __name__ == "__main__":
    main()
