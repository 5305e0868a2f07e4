"""The INPUT argument of jobs: open a dataset by the ending of its path or URL.

The jobs plan, train, evaluate and predict call `open_input`.
"""

from __future__ import annotations

from dkmeans import Dataset, Invalid


def open_input(address: str, columns: str | None) -> Dataset:
    """Return the dataset at a path or URL.

    Args:
        address: Path or URL that ends in .zarr, .zarr::array, .npy, .parquet or .parq.
        columns: Names of the columns of a Parquet dataset, separated by commas; None takes all.

    Raises:
        Invalid: the ending is unknown, or columns are named for a dataset that has no names.
        InvalidData: nothing readable is there.
        Outage: the storage does not answer.
    """
    name = address.partition("::")[0].rstrip("/")
    names = None if columns is None else columns.split(",")
    if names and not all(names):
        raise Invalid(f"--columns must be names with a comma between two, got {columns!r}")
    if name.endswith((".parquet", ".parq")):
        return Dataset.from_parquet(address, names)
    if columns:
        raise Invalid(f"--columns must come with a Parquet input, got it with {address}")
    if name.endswith(".zarr"):
        return Dataset.from_zarr(address)
    if name.endswith(".npy"):
        return Dataset.from_npy(address)
    hint = ". Write CSV as Parquet first, for example with pyarrow" if ".csv" in name else ""
    raise Invalid(
        f"INPUT must end in .zarr (or .zarr::array), .npy or .parquet, got {address!r}{hint}"
    )
