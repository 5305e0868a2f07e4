"""Storage: the same functions on a local disk, in memory and on a real S3 server."""

import errno
import logging
import os
import pickle
import re
import time
import zipfile
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import zarr
from obstore.exceptions import GenericError, PermissionDeniedError

from dkmeans import Conflict, Dataset, Invalid, InvalidData, KMeans, Outage, storage
from dkmeans.data.sources import zarr_array
from dkmeans.errors import Refusal
from dkmeans.storage import Versioned
from tests.programs import result_in_a_fork
from tests.s3_folders import mark_folder
from tests.s3_proxy import NO_ETAG, first

PLACES = ["disk", "memory", "s3"]


@pytest.fixture
def place(request, tmp_path):
    """A folder of the kind that the test requests; by default on the disk."""
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
def test_a_missing_file_reads_as_none(place):
    assert storage.read(f"{place}/nothing") is None
    assert storage.read(f"{place}/nowhere/nothing") is None


def test_an_address_below_a_regular_file_reads_as_none(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert storage.read(f"{tmp_path}/file/x") is None
    assert storage.children(f"{tmp_path}/file/x") == []


@everywhere
def test_a_written_file_is_read_and_overwritten(place):
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
def test_replacing_a_changed_file_is_a_conflict(place):
    storage.write(f"{place}/other", b"")
    seen = storage.replace(f"{place}/x", b"one", None)
    storage.replace(f"{place}/x", b"other", seen)
    with pytest.raises(Conflict, match=f"{place}/x was changed by another driver"):
        storage.replace(f"{place}/x", b"own", seen)
    assert storage.read(f"{place}/x").data == b"other"


@everywhere
def test_creating_an_existing_file_is_a_conflict(place):
    storage.write(f"{place}/x", b"other")
    with pytest.raises(Conflict, match=f"{place}/x"):
        storage.replace(f"{place}/x", b"own", None)
    assert storage.read(f"{place}/x").data == b"other"


@everywhere
def test_replacing_a_removed_file_is_a_conflict(place):
    storage.write(f"{place}/other", b"")
    seen = storage.replace(f"{place}/x", b"one", None)
    storage.remove(f"{place}/x")
    with pytest.raises(Conflict, match=f"{place}/x"):
        storage.replace(f"{place}/x", b"own", seen)
    assert storage.read(f"{place}/x") is None


@everywhere
def test_support_of_conditional_writes_is_detected_and_the_probe_removed(place):
    storage.write(f"{place}/folder/other", b"")
    assert storage.supports_conditional_writes(f"{place}/folder/probe")
    assert storage.children(f"{place}/folder") == ["other"]


def test_a_server_that_ignores_conditions_is_detected(s3_without_conditional_writes):
    storage.write(f"{s3_without_conditional_writes}/folder/other", b"")
    assert not storage.supports_conditional_writes(f"{s3_without_conditional_writes}/folder/probe")
    assert storage.children(f"{s3_without_conditional_writes}/folder") == ["other"]


def test_an_object_store_gives_each_version_its_own_tag(s3):
    address = f"{s3}/{uuid4().hex}/x"
    seen = storage.replace(address, b"one", None)
    other = storage.replace(address, b"two", seen)
    assert seen.version != other.version


def test_a_process_that_was_forked_after_object_storage_was_used_is_refused_and_does_not_hang(s3):
    address = f"{s3}/{uuid4().hex}"
    zarr.create_array(storage.zarr_store(f"{address}.zarr"), data=np.ones((8, 2)), chunks=(8, 2))
    (batch,) = Dataset.from_zarr(f"{address}.zarr").batches()
    for use in (
        lambda: storage.read(f"{address}/x"),
        lambda: storage.children(address),
        lambda: storage.zarr_store(address),
        lambda: batch.source.read(0, 8),
    ):
        assert f"Invalid: {address}" in (told := result_in_a_fork(use))
        assert "must be used by a process that was not forked" in told


def test_a_host_that_does_not_exist_is_a_mistake_and_not_an_outage():
    text = (
        "Generic S3 error: error sending request\n lookup address information: Name or service not"
    )
    error = storage.unreachable("s3://b/x", GenericError(text))
    expected = (
        "s3://b/x cannot be reached: Generic S3 error: error sending request; there is no host"
    )
    assert str(error).startswith(expected)


def test_replacing_leaves_no_temporary_file(tmp_path):
    seen = None
    for data in (b"one", b"two"):
        seen = storage.replace(f"{tmp_path}/x", data, seen)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_write_that_fails_changes_nothing_and_leaves_no_temporary_file(tmp_path):
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
def test_removing_a_missing_file_is_no_error(place):
    storage.remove(f"{place}/nothing")
    storage.remove(f"{place}/nowhere/nothing")


@everywhere
def test_flushing_changes_nothing(place):
    storage.write(f"{place}/folder/deep/x", b"1")
    storage.flush(f"{place}/folder")
    assert storage.read(f"{place}/folder/deep/x").data == b"1"


@everywhere
def test_a_file_that_is_written_whole_is_read_and_no_temporary_file_is_left(place):
    for data in (b"one", b"", bytes(range(256)) * 1000):
        storage.write_whole(f"{place}/a/b", data)
        assert storage.read(f"{place}/a/b").data == data
    assert storage.children(f"{place}/a") == ["b"]


@everywhere
def test_a_renamed_file_is_found_under_its_new_name_only(place):
    storage.write(f"{place}/a/b", b"1")
    storage.rename(f"{place}/a/b", f"{place}/a/c")
    assert storage.children(f"{place}/a") == ["c"]
    assert storage.read(f"{place}/a/c").data == b"1"


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


def test_only_temporary_files_of_killed_writers_are_removed(tmp_path):
    temporary = [".x.a1b2_c3d", f"deep/1.{uuid4().hex}.partial"]
    others = [".x", ".x.crc", ".hidden.parquet", "x.a1b2c3d4", "1.partial"]
    for name in temporary + others:
        storage.write(f"{tmp_path}/{name}", b"1")
    storage.remove_temporary_files(str(tmp_path))
    assert storage.children(f"{tmp_path}/deep") == []
    assert storage.children(str(tmp_path)) == sorted([*others, "deep"])


def test_stores_of_azure_have_a_repr_and_different_places(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "someone")
    stores = [
        storage.zarr_store(f"az://{place}") for place in ("one/rows", "two/rows", "one/others")
    ]
    assert len({repr(store) for store in stores}) == 3
    assert len({zarr_array._place(store) for store in stores}) == 3


# Addresses.


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://bucket//rows", "must have no empty name (//), as s3://bucket/rows"),
        ("gs://bucket/a//b/", "must have no empty name (//), as gs://bucket/a/b/"),
        ("s3:///bucket/rows", "must begin with s3://BUCKET, as s3://bucket/rows"),
        ("s3:/bucket/rows", "must begin with s3://BUCKET, as s3://bucket/rows"),
        ("s3://", "must begin with s3://BUCKET"),
    ],
)
def test_an_address_without_a_bucket_or_with_an_empty_name_is_refused(address, message):
    for use in (storage.read, storage.zarr_store, storage.filesystem, storage.children):
        with pytest.raises(Invalid) as caught:
            use(address)
        assert message in str(caught.value)


@pytest.mark.parametrize("address", ["", "a\0b"])
def test_an_address_that_is_empty_or_has_a_null_byte_is_refused(address):
    for use in (storage.expand, storage.filesystem, storage.zarr_store, Dataset.from_npy):
        with pytest.raises(Invalid, match="neither empty nor hold a null byte"):
            use(address)


def test_an_archive_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "text.zip").write_text("no archive")
    for name in ("none.zip", "text.zip"):
        for use in (storage.filesystem, storage.expand, Dataset.from_npy, Dataset.from_parquet):
            with pytest.raises(InvalidData, match=rf"zip://\*.npy::.*{name} cannot be reached"):
                use(f"zip://*.npy::{tmp_path}/{name}")


def test_slashes_at_the_end_of_an_address_are_no_names(s3):
    place = f"{s3}/{uuid4().hex}"
    storage.write(f"{place}/x", b"1")
    assert storage.children(f"{place}/") == storage.children(f"{place}//") == ["x"]


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
def test_a_folder_is_told_from_a_file_and_from_nothing(place):
    storage.write(f"{place}/folder/x", b"1")
    assert storage.is_folder(f"{place}/folder")
    assert storage.is_folder(f"{place}/folder/")
    assert not storage.is_folder(f"{place}/folder/x")
    assert not storage.is_folder(f"{place}/nothing")


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


def test_http_is_allowed_where_the_endpoint_says_http(s3, monkeypatch):
    address = f"{s3}/{uuid4().hex}"
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    storage.write(f"{address}/x", b"1")
    assert storage.read(f"{address}/x").data == b"1"
    assert storage.children(address) == ["x"]


def test_missing_credentials_are_one_line_and_not_retried(s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    # The server of the tests stands in for that of a cloud, and gives no credentials.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", os.environ["AWS_ENDPOINT_URL"])
    address = f"s3://{uuid4().hex}/rows"
    uses = [
        lambda: storage.read(f"{address}/x"),
        lambda: storage.write(f"{address}/x", b""),
        lambda: storage.children(address),
        lambda: storage.is_empty(address),
        lambda: storage.expand(f"{address}/*"),
        lambda: Dataset.from_npy(f"{address}.npy"),
        lambda: Dataset.from_parquet(f"{address}.parquet"),
        lambda: Dataset.from_zarr(f"{address}.zarr"),
        lambda: KMeans(2, address).train(lambda: np.eye(2), steps=1),
    ]
    began = time.monotonic()
    for use in uses:
        with pytest.raises(InvalidData) as caught:
            use()
        assert "without credentials" in str(caught.value)
        assert "AWS_ACCESS_KEY_ID" in str(caught.value)
        assert "AWS_PROFILE and the files of ~/.aws are not read" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 30


# Servers that misbehave.


def test_one_missing_etag_is_not_taken_for_another_driver(proxy, faulty_place):
    address = f"{faulty_place}/x"
    proxy.fault = first(1, "/x", NO_ETAG, "PUT")
    seen = storage.replace(address, b"one", None)
    assert seen == storage.read(address)
    proxy.fault = first(1, "/x", NO_ETAG, "PUT")
    seen = storage.replace(address, b"two", seen)
    proxy.fault = first(1, "/x", NO_ETAG, "GET")
    seen = storage.read(address)
    assert seen == Versioned(b"two", "")
    storage.replace(address, b"three", seen)
    assert storage.read(address).data == b"three"
    assert len(proxy.faults) == 3


def test_a_server_that_sends_no_etags_is_refused_by_what_it_does(proxy, faulty_place):
    proxy.fault = lambda method, path: NO_ETAG
    with pytest.raises(Invalid, match=f"{faulty_place}/x must have an ETag.*the server sends "):
        storage.replace(f"{faulty_place}/x", b"one", None)


@pytest.mark.parametrize("fault", ["409 OperationAborted", "412 PreconditionFailed"])
def test_a_server_that_refuses_to_replace_an_unchanged_file_is_asked_again(
    short_patience, proxy, faulty_place, fault, caplog, monkeypatch
):
    seen = None
    monkeypatch.setattr("dkmeans.retry._PATIENCE_SECONDS", 30)
    for data in (b"one", b"two"):
        proxy.fault = first(2, "/x", fault, "PUT")
        seen = storage.replace(f"{faulty_place}/x", data, seen)
        assert storage.read(f"{faulty_place}/x") == seen
    assert caplog.text.count("although no other driver has written it") >= 2
    monkeypatch.setattr("dkmeans.retry._PATIENCE_SECONDS", 0.2)
    proxy.fault = lambda method, path: fault if method == "PUT" else None
    with pytest.raises(Outage, match=f"x cannot be reached: the server answered {fault[:3]} .*The"):
        storage.replace(f"{faulty_place}/x", b"three", seen)


def test_an_object_that_is_missing_once_is_read(proxy, faulty_place):
    storage.write(f"{faulty_place}/x", b"1")
    proxy.fault = first(1, "/x", "404 NoSuchKey")
    assert storage.read(f"{faulty_place}/x").data == b"1"
    np.save(buffer := BytesIO(), np.arange(6.0).reshape(3, 2))
    storage.write(f"{faulty_place}/rows.npy", buffer.getvalue())
    rows = Dataset.from_npy(f"{faulty_place}/rows.npy")
    proxy.fault = first(2, "rows.npy", "404 NoSuchKey")
    (chunk,) = next(iter(rows.batches()))
    assert chunk.load(2).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert len(proxy.faults) == 3


@pytest.mark.parametrize("shards", [None, (8, 2)])
def test_a_chunk_that_is_missing_once_is_no_fill_value(proxy, faulty_place, caplog, shards):
    values = np.arange(16.0).reshape(8, 2)
    store = storage.zarr_store(f"{faulty_place}/rows.zarr")
    zarr.create_array(store, data=values, chunks=(4, 2), shards=shards)
    array = zarr.open_array(storage.zarr_store(f"{faulty_place}/rows.zarr", read_only=True))
    array = pickle.loads(pickle.dumps(array))  # as it comes to a worker
    proxy.fault = first(1, "rows.zarr/c/", "404 NoSuchKey")
    np.testing.assert_array_equal(array[:], values)
    assert len(proxy.faults) == 1
    assert "was missing, and is there when asked again" in caplog.text


def test_a_refusal_is_one_line_with_the_servers_reason(proxy, faulty_place):
    proxy.fault = lambda method, path: "403 AccessDenied"
    reason = r"answered 403 Forbidden \(AccessDenied: The message of AccessDenied\.\)$"
    no_body = r"answered 403 Forbidden$"  # of requests that ask for the headers alone
    calls = [
        lambda: storage.read(f"{faulty_place}/x"),
        lambda: storage.replace(f"{faulty_place}/x", b"", None),
        lambda: storage.write(f"{faulty_place}/x", b""),
        lambda: storage.children(faulty_place),
        lambda: storage.is_empty(faulty_place),
        lambda: storage.clear(faulty_place, keep="x"),
        lambda: storage.remove(f"{faulty_place}/x"),
    ]
    for call in calls:
        with pytest.raises(Refusal, match=rf"^{faulty_place}.* written.*({reason}|{no_body})"):
            call()
    with pytest.raises(Invalid, match=rf"^output must be writable, got .*{reason}"):
        storage.check_writable("output", faulty_place)


# Files that are not needed.


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionDeniedError("403"),
        Outage("away"),
        Invalid("no such scheme"),
    ],
)
@pytest.mark.parametrize("level", [logging.WARNING, logging.DEBUG])
def test_a_file_that_is_not_needed_and_cannot_be_written_is_one_line(
    tmp_path, monkeypatch, caplog, error, level
):
    def refuse(address, data):
        raise error

    caplog.set_level(logging.DEBUG, "dkmeans")
    assert storage.write_or_log(f"{tmp_path}/x", b"1", level)
    monkeypatch.setattr(storage, "_write", refuse)
    assert not storage.write_or_log(f"{tmp_path}/y", b"1", level)
    (record,) = caplog.records
    assert record.levelno == level
    line = f"going on without {re.escape(str(tmp_path))}/y, which cannot be written: .*{error}"
    assert re.fullmatch(line.replace("[", r"\["), record.getMessage())


@everywhere
def test_a_directory_is_checked_and_left_without_a_file(place):
    storage.check_writable("output_dir", f"{place}/folder")
    assert storage.is_empty(f"{place}/folder")


def test_a_directory_that_cannot_be_written_is_refused_by_name(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Invalid, match="output_dir must be writable, got") as caught:
        storage.check_writable("output_dir", f"{tmp_path}/file/x")
    assert f"{tmp_path}/file/x" in str(caught.value)


# File systems that do not support everything.


@pytest.fixture
def refusing(monkeypatch):
    """Function that makes the file system refuse to flush and to change modes with an error."""

    def refusing(number, operations=("fsync", "chmod")):
        def refuse(*arguments, **options):
            raise OSError(number, os.strerror(number))

        if "fsync" in operations:
            monkeypatch.setattr(os, "fsync", refuse)
        if "chmod" in operations:
            monkeypatch.setattr(Path, "chmod", refuse)
        monkeypatch.setattr(storage, "_logged_operations", set())

    return refusing


REFUSALS = [errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EBADF]


@pytest.mark.parametrize("number", REFUSALS)
def test_a_folder_that_refuses_to_flush_and_to_change_modes_is_written_with_one_debug_line_each(
    tmp_path, refusing, caplog, number
):
    caplog.set_level(logging.DEBUG, "dkmeans")
    refusing(number)
    for data in (b"one", b"two"):
        storage.write(f"{tmp_path}/folder/x", data)
        storage.flush(f"{tmp_path}/folder")
        assert storage.read(f"{tmp_path}/folder/x").data == data
    assert storage.children(f"{tmp_path}/folder") == ["x"]
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in lines] == ["DEBUG", "DEBUG"]
    for operation, (_, line) in zip(("fsync", "chmod"), lines, strict=True):
        reason = os.strerror(number)
        assert line.startswith(f"going on without {operation}, which is refused for {tmp_path}")
        assert reason in line


def test_a_model_is_trained_and_used_in_a_folder_that_refuses_to_flush(tmp_path, refusing):
    refusing(errno.EINVAL)
    rows = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    model = KMeans(2, str(tmp_path / "model"), initial_clusters=rows[:2])
    for steps in (1, 2):
        model.train(lambda: rows, max_steps=steps)
    assert model.checkpoint().state.step == 2
    for ending in (".zarr", ".parquet"):
        assert model.write_predictions(lambda: rows, f"{tmp_path}/clusters{ending}") == 50
    assert zarr.open_group(f"{tmp_path}/clusters.zarr", mode="r").attrs["complete"] is True


@pytest.mark.parametrize("operation", ["fsync", "chmod"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_a_flush_or_mode_that_fails_for_another_reason_is_an_error(
    tmp_path, refusing, operation, number
):
    storage.write(f"{tmp_path}/x", b"old")
    refusing(number, [operation])
    with pytest.raises(OSError, match=os.strerror(number)):
        storage._write(f"{tmp_path}/x", b"new")
    assert storage.children(str(tmp_path)) == ["x"]
    assert storage.read(f"{tmp_path}/x").data == b"old"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_be_written_but_not_read_is_written(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(0o300)
    try:
        storage.write(f"{tmp_path}/folder/x", b"1")
        assert storage.read(f"{tmp_path}/folder/x").data == b"1"
    finally:
        (tmp_path / "folder").chmod(0o700)
