"""Folders of predictions: what somebody else has put there is neither replaced nor removed."""

from uuid import uuid4

import pytest

from dkmeans import Invalid, storage
from tests.prediction.outputs import check_whole, endings, output_at, read
from tests.s3_folders import mark_folder


@endings
@pytest.mark.parametrize("name", ["notes.txt", "part-00000000.parquet", "zarr.json"])
def test_something_else_at_the_address_is_refused_and_left(model, rows, folder, ending, name):
    address = f"{folder}/other{ending}"
    storage.write(f"{address}/{name}", b"other")
    with pytest.raises(Invalid, match="holds something else") as caught:
        model.write_predictions(lambda: rows, address)
    assert address in str(caught.value)
    assert storage.read(f"{address}/{name}").data == b"other"


@endings
def test_predictions_beside_something_else_are_not_replaced(model, rows, folder, ending):
    address = f"{folder}/mine{ending}"
    model.write_predictions(lambda: rows, address)
    storage.write(f"{address}/notes.txt", b"mine")
    storage.write(f"{address}/.keep", b"mine")
    assert model.write_predictions(lambda: rows, address) == len(rows)
    with pytest.raises(Invalid, match=r"nothing but predictions, .* '(notes.txt|.keep)', '"):
        model.write_predictions(lambda: rows, address, distance=True)
    storage.remove(f"{address}/notes.txt")
    with pytest.raises(Invalid, match=r"nothing but predictions, .* holds '.keep': move it"):
        model.write_predictions(lambda: rows, address, distance=True)
    check_whole(read(address), model, rows, transform=False)
    if ending == ".zarr":  # is written anew if an array is gone
        storage.remove(f"{address}/cluster_index")
        with pytest.raises(Invalid, match=r"nothing but predictions, .* holds '.keep'"):
            model.write_predictions(lambda: rows, address)
    storage.remove(f"{address}/.keep")
    assert model.write_predictions(lambda: rows, address, distance=True) == len(rows)


@endings
def test_a_folder_of_somebody_else_is_not_removed_whatever_its_name(model, rows, folder, ending):
    address = f"{folder}/mine{ending}"
    model.write_predictions(lambda: rows, address)
    storage.write(f"{address}/year=2024/notes.txt", b"mine")
    with pytest.raises(Invalid, match=r"nothing but predictions, .* holds 'year=2024': move it"):
        model.write_predictions(lambda: rows, address, distance=True)
    assert storage.read(f"{address}/year=2024/notes.txt").data == b"mine"


@endings
def test_a_folder_that_an_object_of_s3_marks_is_written_to(model, rows, s3, ending):
    address = f"{s3}/{uuid4().hex}{ending}"
    mark_folder(address)
    for _ in range(2):
        assert model.write_predictions(lambda: rows, address) == len(rows)
    check_whole(read(address), model, rows, transform=False)


@endings
@pytest.mark.parametrize(
    "names",
    [
        (".{identity}.a1b2c3d4", "notes.txt"),
        (".{identity}.notes",),
        (".notes.txt.a1b2c3d4",),
        (".{identity}.a1b2c3d4/notes", "data"),
    ],
)
def test_something_else_beside_a_temporary_file_is_refused_and_left(
    model, rows, tmp_path, ending, names
):
    place = output_at(f"{tmp_path}/clusters{ending}", model, rows).destination
    names = [name.format(identity=place.identity_file) for name in names]
    for name in names:
        storage.write(f"{place.address}/{name}", b"other")
    with pytest.raises(Invalid, match="holds something else"):
        model.write_predictions(lambda: rows, place.address)
    assert all(storage.read(f"{place.address}/{name}").data == b"other" for name in names)
