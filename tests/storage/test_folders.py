"""Folders: the same functions on a local disk, in memory and on a real S3 server."""

import zipfile

import pytest

from dkmeans import Invalid, InvalidData, storage
from tests.s3_folders import mark_folder
from tests.storage.places import everywhere


@everywhere
def test_a_pattern_gives_the_addresses_that_match_in_natural_order(place):
    names = ["part.10.npy", "part.2.npy", "part.9.zarr/zarr.json", "_part.1.npy", ".part.1.npy"]
    for name in [*names, "other.npy", "deep/part.1.npy"]:
        storage.write(f"{place}/rows/{name}", b"1")
    found = storage.expand(f"{place}/rows/*part.*.npy")
    assert found == [f"{place}/rows/part.2.npy", f"{place}/rows/part.10.npy"]
    assert [storage.read(address).data for address in found] == [b"1", b"1"]
    assert storage.expand(f"{place}/rows/part.[0-9].*")[1:] == [f"{place}/rows/part.9.zarr"]
    assert storage.expand(f"{place}/r*/d*/part.?.npy") == [f"{place}/rows/deep/part.1.npy"]
    assert storage.expand(f"{place}/rows/_*") == [f"{place}/rows/_part.1.npy"]
    with pytest.raises(InvalidData, match="must match a file or folder: nothing is there"):
        storage.expand(f"{place}/rows/*.csv")


@everywhere
def test_hidden_folders_match_only_where_the_pattern_asks_for_them(place):
    for name in ("day=1/a.npy", "_temporary/a.npy", ".old/deep/a.npy"):
        storage.write(f"{place}/rows/{name}", b"1")
    assert storage.expand(f"{place}/rows/*/a.npy") == [f"{place}/rows/day=1/a.npy"]
    assert storage.expand(f"{place}/rows/**/a.npy") == [f"{place}/rows/day=1/a.npy"]
    assert storage.expand(f"{place}/rows/_*/a.npy") == [f"{place}/rows/_temporary/a.npy"]


def test_an_address_that_is_no_pattern_is_returned_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "rows[1].npy").touch()
    monkeypatch.chdir(tmp_path)
    for address in ("rows.npy", "s3://b/x", "rows[1].npy", "https://example.com/x.npy?a=1"):
        assert storage.expand(address) == [address]
    assert storage.expand("*.npy") == [str(tmp_path / "rows[1].npy")]


def test_patterns_of_archives_keep_their_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "rows[1].zip", "w") as archive:
        for name in ("a/x.npy", "a/y.npy", "z.npy"):
            archive.writestr(name, b"1")
    chain = f"::{tmp_path}/rows[1].zip"
    expected = [f"zip://a/x.npy{chain}", f"zip://a/y.npy{chain}"]
    assert storage.expand(f"zip://a/*.npy{chain}") == expected
    assert storage.expand(f"zip://*.npy{chain}") == [f"zip://z.npy{chain}"]


@everywhere
def test_a_folder_is_told_from_a_file_and_from_nothing(place):
    storage.write(f"{place}/folder/x", b"1")
    assert storage.is_folder(f"{place}/folder")
    assert storage.is_folder(f"{place}/folder/")
    assert not storage.is_folder(f"{place}/folder/x")
    assert not storage.is_folder(f"{place}/nothing")


@everywhere
def test_children_are_the_names_directly_below(place):
    for name in ("b", "a/deep/er", "c.txt"):
        storage.write(f"{place}/folder/{name}", b"1")
    storage.write(f"{place}/folder-not", b"1")
    assert storage.children(f"{place}/folder") == ["a", "b", "c.txt"]
    assert storage.children(f"{place}/folder/") == ["a", "b", "c.txt"]
    assert storage.children(f"{place}/folder/a") == ["deep"]
    assert storage.children(f"{place}/nothing") == []


@everywhere
def test_a_place_is_empty_before_a_write_and_after_its_removal(place):
    storage.write(f"{place}/other", b"")
    assert storage.is_empty(f"{place}/folder")
    storage.write(f"{place}/folder/deep/x", b"")
    assert not storage.is_empty(f"{place}/folder")
    storage.remove(f"{place}/folder")
    assert storage.is_empty(f"{place}/folder")


@pytest.mark.parametrize("place", ["s3"], indirect=True)
def test_the_object_that_marks_a_folder_is_no_content(place):
    mark_folder(f"{place}/folder")
    assert storage.is_empty(f"{place}/folder")
    assert storage.children(f"{place}/folder") == []
    assert storage.is_folder(f"{place}/folder")
    storage.write(f"{place}/folder/x", b"")
    assert not storage.is_empty(f"{place}/folder")
    assert storage.children(f"{place}/folder") == ["x"]


@everywhere
def test_a_renamed_file_is_found_under_its_new_name_only(place):
    storage.write(f"{place}/a/b", b"1")
    storage.rename(f"{place}/a/b", f"{place}/a/c")
    assert storage.children(f"{place}/a") == ["c"]
    assert storage.read(f"{place}/a/c").data == b"1"


@everywhere
def test_a_name_with_the_characters_of_patterns_is_renamed_as_it_is(place):
    for name in ("x[1]/a", "x1/a"):
        storage.write(f"{place}/{name}", name.encode())
    storage.rename(f"{place}/x[1]/a", f"{place}/x[1]/b?")
    assert storage.children(f"{place}/x1") == ["a"]
    assert storage.children(f"{place}/x[1]") == ["b?"]
    assert storage.read(f"{place}/x[1]/b?").data == b"x[1]/a"


@everywhere
def test_removing_a_folder_removes_everything_below_it_and_nothing_else(place):
    for name in ("folder/x", "folder/deep/y", "folder-not/z", "file"):
        storage.write(f"{place}/{name}", b"1")
    storage.remove(f"{place}/folder")
    assert storage.read(f"{place}/folder/x") is None
    assert storage.read(f"{place}/folder/deep/y") is None
    if not place.startswith("s3://"):  # SeaweedFS, unlike S3, keeps empty folders
        assert storage.children(f"{place}/folder") == []
    assert storage.read(f"{place}/folder-not/z").data == b"1"
    storage.remove(f"{place}/file")
    assert storage.read(f"{place}/file") is None


@everywhere
def test_names_with_the_characters_of_patterns_are_removed_as_they_are(place):
    removed = [
        "out[1]/a",
        "out[1]/deep/b?",
        "m?",
        "m*/x/y",
        "all/a[1]",
        "all/a?/c",
        "all/a*/b[c]/d",
    ]
    kept = ["out1/a", "out/deep/1", "m1/x", "all/keep"]
    for name in [*kept, *removed, "all/ab/c"]:
        storage.write(f"{place}/{name}", b"1")
    for name in ("out[1]", "m?", "m*", "none[1]"):
        storage.remove(f"{place}/{name}")
    assert storage.read(f"{place}/all/ab/c")
    storage.clear(f"{place}/all", keep="keep")
    found = [name for name in [*kept, *removed] if storage.read(f"{place}/{name}")]
    assert found == kept


@everywhere
def test_removing_a_missing_file_is_no_error(place):
    storage.remove(f"{place}/nothing")
    storage.remove(f"{place}/nowhere/nothing")


@everywhere
def test_clearing_removes_all_but_the_given_name(place):
    for name in ("x", "folder/deep/y", "keep", "folder/keep", "z"):
        storage.write(f"{place}/{name}", b"1")
    for _ in range(2):
        storage.clear(place, keep="keep")
        assert storage.read(f"{place}/keep").data == b"1"
        for name in ("x", "folder/deep/y", "folder/keep", "z"):
            assert storage.read(f"{place}/{name}") is None
    storage.clear(f"{place}/nowhere", keep="keep")


@everywhere
def test_a_directory_is_checked_and_left_without_a_file(place):
    storage.check_writable("output_dir", f"{place}/folder")
    assert storage.is_empty(f"{place}/folder")


def test_a_directory_that_cannot_be_written_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Invalid, match="output_dir must be writable, got") as caught:
        storage.check_writable("output_dir", f"{tmp_path}/file/x")
    assert f"{tmp_path}/file/x" in str(caught.value)
