"""Directories and files of exports: complete or absent, on disks and in object storage."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import pytest
from dkmeans_jobs.__main__ import main

from dkmeans import storage
from dkmeans.exports.savedmodel.protobuf import message
from tests.exports.example_models import WIDTH, rows_of
from tests.programs import files_limited_to


def test_a_saved_model_is_a_directory_named_by_the_time_and_nothing_beside(model, tmp_path):
    (tmp_path / "vocabulary.txt").write_text("a b c")
    extra = {"words/vocabulary.txt": str(tmp_path / "vocabulary.txt")}
    given = rows_of("float32")[:0]
    paths = [
        Path(model.export_saved_model(tmp_path / "base", lambda: given, extra).decode())
        for _ in range(3)
    ]
    assert sorted(paths) == sorted((tmp_path / "base").iterdir())
    assert len({int(path.name) for path in paths}) == 3
    files = sorted(
        str(path.relative_to(paths[0])) for path in paths[0].rglob("*") if path.is_file()
    )
    assert files == [
        "assets.extra/words/vocabulary.txt",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]
    assert (paths[0] / files[0]).read_text() == "a b c"


def test_a_file_that_is_replaced_keeps_its_mode_and_links_stay_links(model, tmp_path):
    real, link = tmp_path / "real.onnx", tmp_path / "link.onnx"
    model.export_onnx(real)
    before = real.stat().st_mtime_ns
    real.chmod(0o600)
    link.symlink_to(real)
    model.export_onnx(link)
    assert link.is_symlink()
    assert onnx.load(real).graph.name == "kmeans"
    assert real.stat().st_mtime_ns > before
    assert real.stat().st_mode & 0o777 == 0o600
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        ValueError, match=r"path must be writable, .*no file that could be replaced"
    ):
        model.export_onnx(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_paths_need_not_be_unicode(model, tmp_path):
    base = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    path = model.export_saved_model(base, lambda: rows_of("float32")[:0])
    assert path.startswith(os.fsencode(base))
    assert (Path(os.fsdecode(path)) / "saved_model.pb").exists()


def test_exports_that_begin_together_have_a_directory_each(model, tmp_path):
    given = rows_of("float32")[:0]
    with ThreadPoolExecutor(6) as pool:
        exports = [
            pool.submit(model.export_saved_model, tmp_path / "base", lambda: given)
            for _ in range(12)
        ]
        paths = {Path(export.result().decode()) for export in exports}
    assert len(paths) == 12
    assert paths == set((tmp_path / "base").iterdir())
    assert all((path / "variables" / "variables.index").exists() for path in paths)


def test_exports_go_to_object_storage_too(model, s3):
    given = rows_of("float32")[:0]
    path = model.export_saved_model(f"{s3}/exports", lambda: given).decode()
    assert path.startswith(f"{s3}/exports/")
    data = storage.read(f"{path}/saved_model.pb").data
    assert message("SavedModel").FromString(data).meta_graphs[0].meta_info_def.tags == ["serve"]
    model.export_onnx(f"{s3}/exports/model.onnx")
    assert onnx.load_model_from_string(storage.read(f"{s3}/exports/model.onnx").data)


def test_an_export_that_fails_leaves_no_files(model, tmp_path):
    limited = f"""
import numpy as np
from dkmeans.model import Model
{files_limited_to(600)}
given = np.empty((0, {WIDTH}), np.float32)
Model({model.model_dir!r}).export_saved_model({str(tmp_path / "base")!r}, lambda: given)
"""
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True)
    assert "File too large" in done.stderr
    assert not (tmp_path / "base").exists()


def test_paths_that_cannot_be_written_to_are_refused_by_argument(model, tmp_path, capsys):
    given = rows_of("float32")[:0]
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"export_dir_base must be writable, got .*file'"):
        model.export_saved_model(tmp_path / "file", lambda: given)
    for nothing in (None, ""):
        with pytest.raises(TypeError, match="export_dir_base must be a path or URL, got"):
            model.export_saved_model(nothing, lambda: given)
    assert main(["export", "--model-dir", "no://m", "--format", "onnx", "--output", "m"]) == 2
    assert "'no://m" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"path must be writable, got .*folder'"):
        model.export_onnx(tmp_path / "folder")
    command = ["export", "--model-dir", model.model_dir, "--format", "sklearn"]
    assert main([*command, "--output", str(tmp_path / "folder")]) == 2
    assert "--output must be writable" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert not list((tmp_path / "folder").iterdir())
