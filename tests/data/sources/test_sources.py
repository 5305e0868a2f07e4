"""Sources: what holds for every kind of stored table."""

import pytest

from dkmeans import Dataset, InvalidData
from tests.data.sources.rows import everywhere


@pytest.mark.parametrize("read", [Dataset.from_zarr, Dataset.from_npy, Dataset.from_parquet])
@everywhere
def test_an_address_at_which_nothing_is_stored_is_named(address, read):
    with pytest.raises(InvalidData, match=r"must be a") as caught:
        read(address)
    assert address in str(caught.value)


@pytest.mark.parametrize("read", [Dataset.from_zarr, Dataset.from_npy, Dataset.from_parquet])
def test_a_missing_bucket_is_named(read, s3):
    with pytest.raises(InvalidData, match="s3://no-such-bucket/rows"):
        read("s3://no-such-bucket/rows")
