"""Addresses: what they mean, and which are refused."""

from uuid import uuid4

import pytest

from dkmeans import Dataset, Invalid, storage


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


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    storage.write("~/folder/x", b"1")
    assert (tmp_path / "folder" / "x").read_bytes() == b"1"
    assert storage.children("~/folder") == ["x"]


def test_a_file_url_is_the_path_it_names(tmp_path):
    storage.write(f"file://{tmp_path}/x", b"1")
    assert (tmp_path / "x").read_bytes() == b"1"
    assert storage.read(f"file://{tmp_path}/x").data == b"1"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://bucket//rows", "must have no empty name (//), as s3://bucket/rows"),
        ("gs://bucket/a//b/", "must have no empty name (//), as gs://bucket/a/b/"),
        ("s3:///bucket/rows", "must begin with s3://BUCKET, as s3://bucket/rows"),
        ("s3:/bucket/rows", "must begin with s3://BUCKET, as s3://bucket/rows"),
        ("s3://", "must begin with s3://BUCKET"),
        ("s3://bucket/../rows", "must have no name . or .."),
    ],
)
def test_an_address_without_a_bucket_or_with_an_empty_name_is_refused(address, message):
    for use in (storage.read, storage.zarr_store, storage.filesystem, storage.children):
        with pytest.raises(Invalid) as caught:
            use(address)
        assert message in str(caught.value)


def test_the_home_folder_of_a_user_who_does_not_exist_is_refused():
    for use in (storage.read, storage.zarr_store, storage.children):
        with pytest.raises(Invalid, match="there is no user 'nobody-of-this-name'"):
            use("~nobody-of-this-name/rows.zarr")


@pytest.mark.parametrize("address", ["", "a\0b"])
def test_an_address_that_is_empty_or_has_a_null_byte_is_refused(address):
    for use in (storage.expand, storage.filesystem, storage.zarr_store, Dataset.from_npy):
        with pytest.raises(Invalid, match="neither empty nor hold a null byte"):
            use(address)


def test_slashes_at_the_end_of_an_address_are_no_names(s3):
    place = f"{s3}/{uuid4().hex}"
    storage.write(f"{place}/x", b"1")
    assert storage.children(f"{place}/") == storage.children(f"{place}//") == ["x"]


@pytest.mark.parametrize(
    ("address", "root", "path", "expected"),
    [
        ("s3://b/rows/", "b/rows/", "b/rows/x", "s3://b/rows/x"),
        ("memory://rows", "/rows", "/rows/x", "memory://rows/x"),
        ("sftp://host/rows", "/rows", "/rows/x", "sftp://host/rows/x"),
        ("zip://rows::s3://b/a.zip", "rows", "rows/x", "zip://rows/x::s3://b/a.zip"),
        ("zip://::s3://b/a.zip", "", "rows/x", "zip://rows/x::s3://b/a.zip"),
        ("simplecache::s3://b/rows", "b/rows", "b/rows/x", "simplecache::s3://b/rows/x"),
        ("https://h/x.npy", "https://h/x.npy", "https://h/x.npy", "https://h/x.npy"),
        ("rows", "/data/rows", "/data/rows/x", "/data/rows/x"),
        ("file:///data/rows", "/data/rows", "/data/rows/x", "file:///data/rows/x"),
    ],
)
def test_the_address_of_a_file_below_another_address(address, root, path, expected):
    assert storage.address_below(address, root, path) == expected


def test_an_archive_is_named_by_its_absolute_path(tmp_path, monkeypatch):
    (tmp_path / "a.zip").touch()
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("zip://x.npy::a.zip") == f"zip://x.npy::{tmp_path}/a.zip"
    assert storage.absolute("zip://x.npy::s3://b/a.zip") == "zip://x.npy::s3://b/a.zip"
    assert storage.absolute("s3://b/rows.zarr::x") == "s3://b/rows.zarr::x"


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("https://me:secret@host/x.npy?a=1", "https://host/x.npy?a=1"),
        ("zip://x.npy::ftp://me:secret@host/a@b.zip", "zip://x.npy::ftp://host/a@b.zip"),
        ("https://me:p@ss@host/x.npy", "https://host/x.npy"),
        ("https://token@host/x.npy", "https://host/x.npy"),
        ("https://host:80?x=a@b", "https://host:80?x=a@b"),
        ("abfss://container@account.net/x", "abfss://container@account.net/x"),
        ("s3://bucket/rows@2024.zarr", "s3://bucket/rows@2024.zarr"),
        ("/data/me@host/x.npy", "/data/me@host/x.npy"),
    ],
)
def test_an_address_is_written_to_files_without_its_password(address, written):
    assert storage.without_user(address) == written
