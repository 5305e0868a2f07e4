"""Destinations: where predictions are written, and what an output of each kind consists of.

* `zarr_group`: a Zarr group of its own, with an array for each result.
* `added_arrays`: such arrays in a group that somebody else has made, `store::group`.
* `parquet_folder`: a folder of Parquet files, or one with a folder of files for each cluster.

`own_folder`, which two of them share, refuses folders that hold something else. `output` sets a
destination up and continues it, whatever its kind.
"""

from dkmeans.prediction.destinations.destination import (
    Destination,
    check_address,
    destination_for,
    is_parquet,
)

__all__ = ["Destination", "check_address", "destination_for", "is_parquet"]
