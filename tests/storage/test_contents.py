"""Contents of files: the same functions on a local disk, in memory and on a real S3 server."""

import errno
import logging
import re

import pytest
from obstore.exceptions import PermissionDeniedError

from dkmeans import Invalid, Outage, storage
from dkmeans.storage import contents
from tests.storage.places import everywhere


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
def test_files_are_written_below_a_folder_and_replaced(place):
    for content in (b"1", b"2"):
        files = {"a/b/file": content, "file": content}
        storage.write_files(f"{place}/folder", files.items())
        for name in files:
            assert storage.read(f"{place}/folder/{name}").data == content


@everywhere
def test_a_file_that_is_written_whole_is_read_and_no_temporary_file_is_left(place):
    for data in (b"one", b"", bytes(range(256)) * 1000):
        storage.write_whole(f"{place}/a/b", data)
        assert storage.read(f"{place}/a/b").data == data
    assert storage.children(f"{place}/a") == ["b"]


@everywhere
def test_appending_keeps_the_usable_beginning_whoever_has_written_it(place):
    def before_the_last_bracket(data):
        return data.rfind(b"]")

    address = f"{place}/a/list"
    storage.write(address, b"[1]")
    for item in (b"2", b"3"):
        storage.append(address, b"," + item + b"]", before_the_last_bracket)
    assert storage.read(address).data == b"[1,2,3]"
    storage.write(address, b"[7] cut off")
    storage.append(address, b",8]", before_the_last_bracket)
    assert storage.read(address).data == b"[7,8]"
    assert storage.read_end(address, 3) == (b",8]", 5)
    assert storage.read_end(f"{place}/none", 3) == (b"", 0)


def test_a_json_file_for_information_that_is_damaged_counts_as_none(tmp_path, caplog):
    address = str(tmp_path / "about.json")
    assert storage.read_json(address) is None
    storage.write(address, b'{"rows": 3}')
    assert storage.read_json(address) == {"rows": 3}
    assert caplog.messages == []
    storage.write(address, b'{"rows":')
    assert storage.read_json(address) is None
    assert f"ignoring {address}, which is damaged" in caplog.text


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
    def refuse(address, data, *, durable):
        raise error

    caplog.set_level(logging.DEBUG, "dkmeans")
    assert storage.write_or_log(f"{tmp_path}/x", b"1", level)
    monkeypatch.setattr(contents, "_write", refuse)
    assert not storage.write_or_log(f"{tmp_path}/y", b"1", level)
    (record,) = caplog.records
    assert record.levelno == level
    line = f"going on without {re.escape(str(tmp_path))}/y, which cannot be written: .*{error}"
    assert re.fullmatch(line.replace("[", r"\["), record.getMessage())


@everywhere
def test_the_beginning_of_a_file_is_read(place):
    storage.write(f"{place}/file", b"abcdef")
    assert storage.read_beginning(f"{place}/file", 3) == b"abc"
    assert storage.read_beginning(f"{place}/file", 9) == b"abcdef"
    assert storage.read_beginning(f"{place}/nothing", 3) == b""
