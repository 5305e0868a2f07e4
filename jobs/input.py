"""INPUT: what an address on the command line means."""

from __future__ import annotations

from dkmeans import Dataset, Invalid


def open_input(address: str, columns: str | None) -> Dataset:
    """The dataset at an address, by the ending of its name.

    Raises:
        Invalid: the ending says nothing, or columns are named where there are none.
        InvalidData: nothing readable is there; Outage: nobody answers.
    """
    name = address.partition("::")[0].rstrip("/")
    if name.endswith((".parquet", ".parq")):
        return Dataset.from_parquet(address, columns.split(",") if columns else None)
    if columns:
        raise Invalid(f"--columns must come with a Parquet input, got it with {address}")
    if name.endswith(".zarr"):
        return Dataset.from_zarr(address)
    if name.endswith(".npy"):
        return Dataset.from_npy(address)
    raise Invalid(f"INPUT must end in .zarr (or .zarr::array), .npy or .parquet, got {address!r}")
