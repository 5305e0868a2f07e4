"""Descriptions of a model and of the backends."""

import json
import re
from dataclasses import asdict, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dkmeans_jobs.status import Status

from dkmeans import Dataset, KMeans, storage
from dkmeans.hooks import SessionRunHook
from dkmeans.report import Progress
from tests.jobs.commands import train


def test_info_describes_a_model(run, run_json, store, tmp_path):
    run_json(*train(store, tmp_path / "m", "--metric", "cosine", "--max-steps", 3))
    about = run_json("info", tmp_path / "m")
    assert about["distance_metric"] == "cosine"
    assert about["step"] == 3
    assert sum(about["cluster_sizes"]) == 900
    assert about["trained_on"] == store
    assert len(about["checkpoints"]) == 2
    code, out, _ = run("info", tmp_path / "m")
    assert code == 0
    assert re.search(r"num clusters +4\n", out)


def test_info_names_the_columns(run, run_json, rows, tmp_path):
    pq.write_table(pa.table(dict(zip("bca", rows.T, strict=True))), tmp_path / "rows.parquet")
    run_json(*train(tmp_path / "rows.parquet", tmp_path / "m", "--max-steps", 1))
    assert run_json("info", tmp_path / "m")["column_names"] == ["b", "c", "a"]
    _, out, _ = run("info", tmp_path / "m")
    assert re.search(r"column names +b, c, a\n", out)
    many = KMeans(2, str(tmp_path / "many"), use_mini_batch=False)
    many.train(lambda: {f"c{n:02d}": np.arange(4.0) for n in range(30)}, steps=1)
    assert len(run_json("info", tmp_path / "many")["column_names"]) == 30
    _, out, _ = run("info", tmp_path / "many")
    assert re.search(r"column names +c00, .*, c19, \.\.\.\n", out)


def test_info_describes_the_backends_of_this_machine(run_json):
    about = run_json("info", "--backends")
    assert about["cuda"].startswith("backend 'cuda' cannot be used on this machine: ")
    assert about["default"].startswith("native")
    assert "bits" in about["native"]
    assert f"numpy {np.__version__}" in about["numpy"]


def note(model_dir, **changes):
    """Write the status of a job on a model, as the job itself does."""
    progress = Progress(17, 300, 123.0, -0.001, 1, 1, 900, 0.5)
    now = datetime.now(UTC).isoformat()
    status = Status("running", "node-1", 42, now, now, progress.numbers())
    content = json.dumps(asdict(replace(status, **changes))).encode()
    storage.write(storage.join(str(model_dir), "status.json"), content)


def test_while_a_job_runs_people_are_first_shown_how_far_it_is(run, run_json, store, tmp_path):
    run_json(*train(store, tmp_path / "m", "--max-steps", 2))
    note(tmp_path / "m")
    _, out, _ = run("info", tmp_path / "m")
    first, second, *rest = out.splitlines()
    assert re.fullmatch(r"training +running on node-1 \(process 42\), noted \d s ago", first)
    assert re.fullmatch(
        r"progress +step 17 of 300, loss 123, change -1.0e-03, 1,800 rows/s, 1 empty cluster, "
        r"at most 2:22 min left",
        second,
    )
    assert any(re.fullmatch(r"step +2 in the latest checkpoint", line) for line in rest)
    assert "{" not in out
    assert run_json("info", tmp_path / "m")["progress"]["step"] == 17


def test_a_job_that_is_done_has_no_progress_beside_its_model(run, run_json, store, tmp_path):
    run_json(*train(store, tmp_path / "m", "--max-steps", 2))
    _, out, _ = run("info", tmp_path / "m")
    assert re.match(r"training +done, \d s ago\n", out)
    assert not re.search("progress|in the latest checkpoint", out)


def test_before_the_first_iteration_no_sizes_of_clusters_are_shown(run, store, tmp_path):
    class Stops(SessionRunHook):
        def before_run(self, context):
            raise LookupError("stop here")

    with pytest.raises(LookupError):
        KMeans(4, tmp_path / "m", use_mini_batch=False).train(
            lambda: Dataset.from_zarr(store), hooks=[Stops()]
        )
    code, out, _ = run("info", tmp_path / "m")
    assert code == 0
    assert re.search(r"step +0\n", out)
    assert not re.search("loss|sizes|empty|relocated|None", out)


def test_the_sizes_of_many_clusters_are_summarized(run, run_json, store, tmp_path):
    command = ["train", store, "--num-clusters", 30, "--model-dir", tmp_path / "m", "--seed", 1]
    run_json(*command, "--max-steps", 1)
    sizes = run_json("info", tmp_path / "m")["cluster_sizes"]
    assert len(sizes) == 30
    _, out, _ = run("info", tmp_path / "m")
    assert re.search(rf"cluster sizes +{min(sizes)} to {max(sizes)} rows, median \d+\n", out)
