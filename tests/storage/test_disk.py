"""The local disk: whole files, flushing, temporary files and folders."""

import errno
import logging
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import zarr

from dkmeans import KMeans, storage
from dkmeans.storage import disk
from tests.programs import output_of
from tests.storage.places import everywhere


def test_a_write_that_fails_changes_nothing_and_leaves_no_temporary_file(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError, match="x"):
        storage.write(f"{tmp_path}/x", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_only_temporary_files_of_killed_writers_are_removed(tmp_path):
    temporary = [".x.a1b2_c3d", f"deep/1.{uuid4().hex}.partial"]
    others = [".x", ".x.crc", ".hidden.parquet", "x.a1b2c3d4", "1.partial"]
    for name in temporary + others:
        storage.write(f"{tmp_path}/{name}", b"1")
    storage.remove_temporary_files(str(tmp_path))
    assert storage.children(f"{tmp_path}/deep") == []
    assert storage.children(str(tmp_path)) == sorted([*others, "deep"])


@everywhere
def test_flushing_changes_nothing(place):
    storage.write(f"{place}/folder/deep/x", b"1")
    storage.flush(f"{place}/folder")
    assert storage.read(f"{place}/folder/deep/x").data == b"1"


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
        monkeypatch.setattr(disk, "_logged_operations", set())

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
        disk.write_in_one_step(tmp_path / "x", b"new", durable=True)
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


def test_a_temporary_folder_is_removed_when_its_process_ends_and_by_no_other():
    program = """
import os, sys
from dkmeans import storage
folder = storage.temporary_folder()
if os.fork() == 0:
    sys.exit()
os.wait()
print(folder, os.path.isdir(folder))
"""
    folder, was_there = output_of(program, PYTHONWARNINGS="ignore").split()
    assert was_there == "True"
    assert not Path(folder).exists()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_temporary_folder_of_a_child_is_removed_when_the_child_ends(method):
    context = multiprocessing.get_context(method)
    kept = Path(storage.temporary_folder())
    with ProcessPoolExecutor(1, context) as pool:
        folder = Path(pool.submit(storage.temporary_folder).result())
        assert folder.is_dir()
    assert not folder.exists()
    assert kept.is_dir()


def test_only_what_outlives_the_process_is_flushed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    flushed = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    for folder, is_flushed in ((storage.temporary_folder(), False), (str(tmp_path), True)):
        storage.write(f"{folder}/a/file", b"1")
        storage.append(f"{folder}/a/file", b"2", len)
        storage.flush(f"{folder}/a")
        assert bool(flushed) == is_flushed
        assert storage.read(f"{folder}/a/file").data == b"12"
