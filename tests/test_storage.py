"""Storage: the same functions on a local disk, in memory and on a real S3 server."""

import errno
import logging
import os
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import zarr
from obstore.exceptions import GenericError, PermissionDeniedError

from dkmeans import Conflict, Dataset, Invalid, KMeans, Outage, storage
from dkmeans.data.sources import zarr_array
from tests.programs import result_in_a_fork

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
    text = "Error performing PUT http://169.254.169.254/latest - error sending request"
    assert "; there are no credentials in the env" in str(
        storage.unreachable("s3://b/x", GenericError(text))
    )


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
    line = f"going on without {tmp_path}/y, which cannot be written: {error}"
    assert record.getMessage() == line


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
