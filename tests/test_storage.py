"""Addresses: local paths, memory and a real S3 server behind the same few verbs."""

from uuid import uuid4

import pytest

from dkmeans import Conflict, storage
from dkmeans.data.sources import zarr_array

PLACES = ["disk", "memory", "s3"]


@pytest.fixture
def place(request, tmp_path):
    """A folder of the kind the test asks for; the disk where it asks for none."""
    kind = getattr(request, "param", "disk")
    if kind == "memory":
        return f"memory://{uuid4().hex}"
    if kind == "s3":
        return f"{request.getfixturevalue('s3')}/{uuid4().hex}"
    return str(tmp_path)


everywhere = pytest.mark.parametrize("place", PLACES, indirect=True)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("model", True),
        ("/data/model", True),
        ("~/model", True),
        ("file:///data/model", True),
        ("memory://model", False),
        ("s3://bucket/model", False),
        ("gs://bucket/model", False),
    ],
)
def test_only_paths_and_file_urls_are_local(address, local):
    assert storage.is_local(address) is local


@pytest.mark.parametrize(
    ("address", "names", "joined"),
    [
        ("model", ["a"], "model/a"),
        ("model/", ["a", "b"], "model/a/b"),
        ("s3://bucket", ["a"], "s3://bucket/a"),
        ("s3://bucket/model//", ["a"], "s3://bucket/model/a"),
        ("file:///data/", ["a"], "file:///data/a"),
        ("s3://bucket/model/", [], "s3://bucket/model"),
    ],
)
def test_names_are_joined_by_one_slash(address, names, joined):
    assert storage.join(address, *names) == joined


def test_a_file_url_is_the_path_it_names(tmp_path):
    storage.write(f"file://{tmp_path}/x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"
    assert storage.read(f"file://{tmp_path}/x").data == b"1"


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    storage.write("~/folder/x", b"1")
    assert (tmp_path / "folder" / "x").read_bytes() == b"1"
    assert storage.children("~/folder") == ["x"]


@everywhere
def test_what_is_not_there_reads_as_none(place):
    assert storage.read(f"{place}/nothing") is None
    assert storage.read(f"{place}/nowhere/nothing") is None


def test_what_lies_below_a_regular_file_reads_as_none(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert storage.read(f"{tmp_path}/file/x") is None
    assert storage.children(f"{tmp_path}/file/x") == []


@everywhere
def test_what_is_written_is_read_and_written_over(place):
    for data in (b"one", b"", bytes(range(256)) * 1000):
        storage.write(f"{place}/a/b", data)
        assert storage.read(f"{place}/a/b").data == data


@everywhere
def test_a_first_version_is_created_and_then_replaced(place):
    storage.write(f"{place}/other", b"")
    seen = storage.replace(f"{place}/x", b"one", None)
    assert storage.read(f"{place}/x") == seen
    again = storage.replace(f"{place}/x", b"two", seen)
    assert storage.read(f"{place}/x") == again
    assert storage.replace(f"{place}/x", b"three", storage.read(f"{place}/x")).data == b"three"
    assert storage.read(f"{place}/x").data == b"three"


@everywhere
def test_replacing_what_was_changed_in_between_is_a_conflict(place):
    storage.write(f"{place}/other", b"")
    seen = storage.replace(f"{place}/x", b"one", None)
    storage.replace(f"{place}/x", b"theirs", seen)
    with pytest.raises(Conflict, match=f"{place}/x was changed by another driver"):
        storage.replace(f"{place}/x", b"mine", seen)
    assert storage.read(f"{place}/x").data == b"theirs"


@everywhere
def test_creating_over_what_another_has_created_is_a_conflict(place):
    storage.write(f"{place}/x", b"theirs")
    with pytest.raises(Conflict, match=f"{place}/x"):
        storage.replace(f"{place}/x", b"mine", None)
    assert storage.read(f"{place}/x").data == b"theirs"


@everywhere
def test_replacing_what_was_removed_in_between_is_a_conflict(place):
    storage.write(f"{place}/other", b"")
    seen = storage.replace(f"{place}/x", b"one", None)
    storage.remove(f"{place}/x")
    with pytest.raises(Conflict, match=f"{place}/x"):
        storage.replace(f"{place}/x", b"mine", seen)
    assert storage.read(f"{place}/x") is None


@everywhere
def test_a_place_where_writers_are_told_apart_is_known_and_left_as_it_was(place):
    storage.write(f"{place}/folder/other", b"")
    assert storage.tells_writers_apart(f"{place}/folder/probe")
    assert storage.children(f"{place}/folder") == ["other"]


def test_a_server_that_takes_conditional_writes_for_plain_ones_is_known(careless_s3):
    storage.write(f"{careless_s3}/folder/other", b"")
    assert not storage.tells_writers_apart(f"{careless_s3}/folder/probe")
    assert storage.children(f"{careless_s3}/folder") == ["other"]


def test_an_object_store_gives_each_version_a_mark_of_its_own(s3):
    address = f"{s3}/{uuid4().hex}/x"
    seen = storage.replace(address, b"one", None)
    other = storage.replace(address, b"two", seen)
    assert seen.version != other.version


def test_replacing_leaves_nothing_aside(tmp_path):
    seen = None
    for data in (b"one", b"two"):
        seen = storage.replace(f"{tmp_path}/x", data, seen)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_write_that_fails_leaves_what_was_there_and_nothing_aside(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError, match="x"):
        storage.write(f"{tmp_path}/x", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


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
def test_removing_takes_all_that_is_below_and_nothing_beside(place):
    for name in ("folder/x", "folder/deep/y", "folder-not/z", "file"):
        storage.write(f"{place}/{name}", b"1")
    storage.remove(f"{place}/folder")
    assert storage.read(f"{place}/folder/x") is None
    assert storage.read(f"{place}/folder/deep/y") is None
    if not place.startswith("s3://"):  # SeaweedFS, unlike S3, has folders, and keeps empty ones
        assert storage.children(f"{place}/folder") == []
    assert storage.read(f"{place}/folder-not/z").data == b"1"
    storage.remove(f"{place}/file")
    assert storage.read(f"{place}/file") is None


@everywhere
def test_removing_what_is_not_there_is_no_error(place):
    storage.remove(f"{place}/nothing")
    storage.remove(f"{place}/nowhere/nothing")


@everywhere
def test_flushing_changes_nothing(place):
    storage.write(f"{place}/folder/deep/x", b"1")
    storage.flush(f"{place}/folder")
    assert storage.read(f"{place}/folder/deep/x").data == b"1"


@everywhere
def test_what_is_written_whole_is_read_and_nothing_is_left_aside(place):
    for data in (b"one", b"", bytes(range(256)) * 1000):
        storage.write_whole(f"{place}/a/b", data)
        assert storage.read(f"{place}/a/b").data == data
    assert storage.children(f"{place}/a") == ["b"]


@everywhere
def test_clearing_takes_all_but_what_is_kept(place):
    for name in ("x", "folder/deep/y", "keep", "folder/keep", "z"):
        storage.write(f"{place}/{name}", b"1")
    for _ in range(2):
        storage.clear(place, keep="keep")
        assert storage.read(f"{place}/keep").data == b"1"
        for name in ("x", "folder/deep/y", "folder/keep", "z"):
            assert storage.read(f"{place}/{name}") is None
    storage.clear(f"{place}/nowhere", keep="keep")


@everywhere
def test_a_place_is_empty_until_something_is_written_and_again_when_it_is_removed(place):
    storage.write(f"{place}/other", b"")
    assert storage.is_empty(f"{place}/folder")
    storage.write(f"{place}/folder/deep/x", b"")
    assert not storage.is_empty(f"{place}/folder")
    storage.remove(f"{place}/folder")
    assert storage.is_empty(f"{place}/folder")


def test_only_what_killed_writers_left_is_removed_as_such(tmp_path):
    asides = [".x.a1b2_c3d", f"deep/1.{uuid4().hex}.partial"]
    others = [".x", ".x.crc", ".hidden.parquet", "x.a1b2c3d4", "1.partial"]
    for name in asides + others:
        storage.write(f"{tmp_path}/{name}", b"1")
    storage.remove_asides(str(tmp_path))
    assert storage.children(f"{tmp_path}/deep") == []
    assert storage.children(str(tmp_path)) == sorted([*others, "deep"])


def test_stores_of_azure_can_be_printed_and_told_from_others(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "someone")
    stores = [
        storage.zarr_store(f"az://{place}") for place in ("one/rows", "two/rows", "one/others")
    ]
    assert len({repr(store) for store in stores}) == 3
    assert len({zarr_array._place(store) for store in stores}) == 3
