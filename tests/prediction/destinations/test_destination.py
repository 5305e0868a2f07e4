"""Destinations: which one an address names, and which addresses name none."""

import pytest

from dkmeans import Invalid
from tests.prediction.outputs import endings
from tests.prediction.parquet_files import X


@pytest.mark.parametrize("name", ["clusters", "clusters.csv", "clusters.zarr.zip", "zarr"])
def test_other_endings_are_refused_before_anything_is_written(model, rows, tmp_path, name):
    with pytest.raises(
        Invalid, match=r"output must end in \.zarr or \.parquet, or be STORE\.zarr::GROUP, got"
    ):
        model.write_predictions(lambda: rows, str(tmp_path / name))
    assert not (tmp_path / name).exists()


@endings
def test_a_regular_file_at_the_address_is_refused_and_left(model, rows, tmp_path, ending):
    address = tmp_path / f"other{ending}"
    address.write_bytes(b"other")
    with pytest.raises(Invalid, match="output must be"):
        model.write_predictions(lambda: rows, str(address))
    assert address.read_bytes() == b"other"


@endings
def test_an_address_below_a_regular_file_is_refused_by_name(model, rows, tmp_path, ending):
    (tmp_path / "file").write_bytes(b"")
    address = f"{tmp_path}/file/clusters{ending}"
    with pytest.raises(Invalid, match="output must be writable") as caught:
        model.write_predictions(lambda: rows, address)
    assert address in str(caught.value)


def test_folders_that_cannot_be_written_are_refused(trained, tmp_path):
    with pytest.raises(Invalid, match=r"partition_by must come with an output that ends in \.parq"):
        trained.write_predictions(lambda: X, tmp_path / "o.zarr", partition_by="cluster_index")
    for more in ({"partition_by": "cluster_index"}, {"keep": ["x"]}):
        with pytest.raises(Invalid, match=r"must come with an output that ends in \.parquet, got"):
            trained.write_predictions(lambda: X, f"{tmp_path}/o.zarr::g.parquet", **more)
    with pytest.raises(Invalid, match="partition_by must be 'cluster_index', got 'id'"):
        trained.write_predictions(lambda: X, tmp_path / "o.parquet", partition_by="id")
