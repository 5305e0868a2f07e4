"""Training: from first centers to a model, again and again, in full batches and mini-batches."""

import re
import socket
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import zarr
from pyarrow import parquet
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dkmeans import KMeans, checkpoints
from dkmeans.storage import zarr_store
from tests.jobs.commands import train


def test_train_finds_clusters_evaluate_and_predict_use_them(run_json, store, rows, tmp_path):
    trained = run_json(*train(store, tmp_path / "m", "--init", "kmeans_plus_plus"))
    assert trained["status"] == "trained"
    assert trained["stopped"].startswith("converged")
    assert (trained["rows"], trained["columns"], trained["num_clusters"]) == (900, 3, 4)
    evaluated = run_json("evaluate", store, "--model-dir", tmp_path / "m")
    assert 0 < evaluated["average_loss"] < 4
    output = tmp_path / "clusters.zarr"
    predicted = run_json(
        "predict", store, "--model-dir", tmp_path / "m", "--output", output, "--transform"
    )
    assert predicted["rows"] == 900
    model = KMeans(4, str(tmp_path / "m"))
    written = zarr.open_group(str(output), mode="r")
    assert np.array_equal(written["cluster_index"][:], [*model.predict_cluster_index(lambda: rows)])
    assert np.array_equal(written["all_distances"][:], np.stack([*model.transform(lambda: rows)]))


def test_a_model_that_standardizes_does_so_in_every_job(run, run_json, rows, tmp_path):
    table = pyarrow.table({"x": rows[:, 0], "y": rows[:, 1] * 1e4, "z": rows[:, 2]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    store, model_dir = tmp_path / "rows.parquet", tmp_path / "m"
    run_json(*train(store, model_dir, "--standardize"))
    model = KMeans(4, str(model_dir))
    about = run_json("info", model_dir)
    assert about["standardized"]["means"] == model.checkpoint().settings.scaling.means.tolist()
    assert about["centers"] == model.centers_in_original_units().tolist()
    code, out, _ = run("info", model_dir)
    assert code == 0
    y = f"{about['centers'][3][1]:.6g}"
    assert re.search(rf"center of cluster 3 +x .*, y {re.escape(y)}, z ", out)
    assert re.search("standardized +by the mean and deviation of each column", out)
    evaluated = run_json("evaluate", store, "--model-dir", model_dir)
    assert evaluated["loss"] == pytest.approx(about["loss"], rel=1e-3)
    page = tmp_path / "page.html"
    assert run("report", model_dir, "--input", store, "--output", page)[0] == 0
    assert f"<td>{about['centers'][0][1]:,.0f}</td>" in page.read_text()
    # The same command goes on; a model of rows as they are does not.
    assert run_json(*train(store, model_dir, "--standardize"))["status"] == "already done"
    assert run_json(*train(store, model_dir, "--steps", 1))["step"] == about["step"] + 1
    assert run(*train(store, tmp_path / "plain"))[0] == 0
    code, _, err = run(*train(store, tmp_path / "plain", "--standardize"))
    assert code == 2
    assert "standardize must come with a new model, or with one that began with it" in err


def test_train_and_info_report_several_starts_and_the_policy_for_empty_clusters(
    run, run_json, store, tmp_path
):
    more = ["--num-restarts", 3, "--empty-clusters", "relocate"]
    trained = run_json(*train(store, tmp_path / "m", *more))
    about = run_json("info", tmp_path / "m")
    for name in ("best_start", "losses_of_starts", "steps_of_starts", "loss"):
        assert about[name] == trained[name]
    assert about["loss"] == min(about["losses_of_starts"])
    assert len(about["steps_of_starts"]) == 3
    assert about["relocated_clusters"] == 0
    code, _, err = run(*train(store, tmp_path / "m"))
    assert code == 2
    assert "num_restarts must be that of the model in model_dir, 3" in err


def test_a_model_whose_latest_checkpoint_is_damaged_goes_on_from_the_one_that_is_named(
    run, run_json, store, tmp_path
):
    for steps in (1, 2):
        run_json(*train(store, tmp_path / "m", "--max-steps", steps))
    latest = KMeans(4, str(tmp_path / "m")).latest_checkpoint()
    (numbers,) = (Path(latest) / "centers").glob("c.*")
    numbers.write_bytes(b"x" * numbers.stat().st_size)
    code, _, err = run(*train(store, tmp_path / "m", "--max-steps", 3))
    assert code == 2
    (intact,) = re.findall(r"newest intact checkpoint is (\S+): .* --from-checkpoint", err)
    for steps in (3, 4):  # the same command, run again, keeps what it has trained since
        command = train(store, tmp_path / "m", "--max-steps", steps, "--from-checkpoint", intact)
        assert run_json(*command)["step"] == steps
    undisturbed = run_json(*train(store, tmp_path / "undisturbed", "--max-steps", 4))
    assert run_json("info", tmp_path / "m")["loss"] == undisturbed["loss"]


def test_the_same_command_again_resumes_and_then_reports_that_it_is_done(run_json, store, tmp_path):
    whole = run_json(*train(store, tmp_path / "whole", "--max-steps", 8))
    half = run_json(*train(store, tmp_path / "parts", "--max-steps", 4))
    assert half["step"] == 4
    rest = run_json(*train(store, tmp_path / "parts", "--max-steps", 8))
    assert (rest["step"], rest["loss"]) == (whole["step"], whole["loss"])
    again = run_json(*train(store, tmp_path / "parts", "--max-steps", 8))
    assert (again["status"], again["step"]) == ("already done", rest["step"])
    coarse = ["--relative-tolerance", 0.5]
    converged = run_json(*train(store, tmp_path / "c", *coarse))
    assert run_json(*train(store, tmp_path / "c", *coarse))["status"] == "already done"
    finer = run_json(*train(store, tmp_path / "c", "--relative-tolerance", 1e-12))
    assert finer["status"] == "trained"
    assert finer["step"] > converged["step"]


def test_a_converged_model_trains_again_on_other_rows(run_json, store, rows, tmp_path):
    run_json(*train(store, tmp_path / "m"))
    np.save(tmp_path / "more.npy", rows[:500] + 1)
    assert run_json(*train(tmp_path / "more.npy", tmp_path / "m"))["status"] == "trained"


def test_a_model_that_is_continued_on_other_rows_is_warned_of(run, store, rows, tmp_path):
    assert "other input" not in run(*train(store, tmp_path / "m", "--steps", 1))[2]
    assert "other input" not in run(*train(store, tmp_path / "m", "--steps", 1))[2]
    np.save(tmp_path / "more.npy", rows[:500] + 1)
    code, _, err = run(*train(tmp_path / "more.npy", tmp_path / "m", "--steps", 1))
    assert code == 0
    assert f"last trained on other input (900 rows of {store}) and is continued" in err
    assert "give --overwrite or another --model-dir" in err
    job = *train(tmp_path / "more.npy", tmp_path / "m", "--steps", 1), "--num-clusters", 5
    code, out, err = run(*job, "--overwrite")
    assert (code, "other input" in err) == (0, False)
    assert re.search(r"^step +1\n(.*\n)+?num clusters +5$", out, re.MULTILINE)


def test_other_rows_for_which_no_step_is_left_are_warned_of(run, store, rows, tmp_path):
    run(*train(store, tmp_path / "m", "--max-steps", 1))
    np.save(tmp_path / "more.npy", rows[:500] + 1)
    code, _, err = run(*train(tmp_path / "more.npy", tmp_path / "m", "--max-steps", 1))
    assert code == 0
    assert "is not trained on these rows, as it has the --max-steps 1; give more, --over" in err
    assert "is continued" not in err


def test_a_model_that_is_continued_on_other_columns_is_warned_of(run, rows, tmp_path):
    columns = {name: rows[:, number] for number, name in enumerate("abc")}
    parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    for columns in ("b,a", "c,a"):
        job = train(tmp_path / "rows.parquet", tmp_path / "m", "--columns", columns)
        err = run(*job, "--steps", 1)[2]
    assert "rows.parquet, columns b,a)" in err


def test_a_model_that_is_continued_with_another_seed_is_warned_of(run, store, tmp_path):
    run(*train(store, tmp_path / "m", "--max-steps", 1))
    for max_steps in (1, 2):
        code, _, err = run(*train(store, tmp_path / "m", "--max-steps", max_steps, "--seed", 4))
        assert code == 0
        assert "seed 4 (was 3)" in err


@pytest.mark.parametrize("more", [[], ["--relative-tolerance", 1e-3]])
def test_the_unit_of_the_rows_does_not_decide_when_training_ends(run_json, rows, tmp_path, more):
    found = []
    for exponent in (0, -14):  # powers of two change no bit of a row's digits
        np.save(tmp_path / "rows.npy", rows * np.float32(2**exponent))
        trained = run_json(*train(tmp_path / "rows.npy", tmp_path / str(exponent), *more))
        found.append((trained["step"], trained["stopped"], trained["loss"] / 4**exponent))
    assert found[0] == found[1]
    assert found[0][0] > 2


@pytest.mark.parametrize("steps_per_iteration", [1, 3])
def test_mini_batches_resume_where_they_left_off(run_json, store, tmp_path, steps_per_iteration):
    batches = ["--batch-rows", 70, "--steps-per-iteration", steps_per_iteration]
    whole = run_json(*train(store, tmp_path / "whole", *batches, "--max-steps", 29))
    for stop in (5, 16, 29):
        parts = run_json(*train(store, tmp_path / "parts", *batches, "--max-steps", stop))
    assert parts["step"] == whole["step"] == 29
    a, b = (checkpoints.latest(str(tmp_path / name)).state for name in ("whole", "parts"))
    assert np.array_equal(a.centers, b.centers)
    assert np.array_equal(a.counts, b.counts)


def test_mini_batches_end_after_one_epoch_when_no_other_limit_is_given(run_json, store, tmp_path):
    once = run_json(*train(store, tmp_path / "m", "--batch-rows", 250))
    assert once["step"] == 4
    again = run_json(*train(store, tmp_path / "m", "--batch-rows", 250))
    assert again["status"] == "already done"


def test_another_number_of_clusters_than_the_models_is_refused(run, run_json, store, tmp_path):
    run_json(*train(store, tmp_path / "m"))
    code, _, err = run("train", store, "--num-clusters", 5, "--model-dir", tmp_path / "m")
    assert code == 2
    assert "num_clusters must be that of the model in model_dir, 4" in err
    assert "got 5" in err


@pytest.mark.parametrize(
    ("more", "points"), [((), [1, 2, 3, 4]), (("--batch-rows", 50), [1])], ids=["full", "mini"]
)
def test_charts_have_each_iteration_in_full_batch(run_json, store, tmp_path, more, points):
    run_json(*train(store, tmp_path / "m", *more, "--max-steps", 4, "--relative-tolerance", 0))
    scalars = EventAccumulator(str(tmp_path / "m")).Reload().Scalars("loss")
    assert [scalar.step for scalar in scalars] == points


def test_a_file_for_prometheus_has_the_last_numbers(run_json, store, tmp_path):
    metrics = tmp_path / "dkmeans.prom"
    result = run_json(*train(store, tmp_path / "m", "--steps", 3, "--metrics-file", metrics))
    lines = metrics.read_text().splitlines()
    assert "dkmeans_global_step 3.0" in lines
    (loss,) = [float(line.split()[1]) for line in lines if line.startswith("dkmeans_loss ")]
    assert loss == pytest.approx(result["loss"])


def test_metrics_are_served_while_a_job_runs_and_a_taken_port_is_refused(run, store, tmp_path):
    arguments = train(store, tmp_path / "m", "--steps", 3, "--metrics-port")
    code, _, err = run(*arguments, 0)
    assert code == 0
    port = int(re.search(r"metrics are served at port (\d+)", err)[1])
    with socket.create_server(("0.0.0.0", port)):  # the job has freed it
        code, _, err = run(*arguments, port)
    assert code == 2
    (line,) = err.splitlines()
    assert line.endswith(
        f"error: the metrics port must be free to use, got {port}: Address already in use"
    )


def test_rows_and_model_may_be_in_an_object_store(run_json, rows, s3):
    zarr.create_array(zarr_store(f"{s3}/jobs/rows.zarr"), data=rows, chunks=(300, 3))
    model = f"{s3}/jobs/model"
    run_json(*train(f"{s3}/jobs/rows.zarr", model, "--max-steps", 3))
    trained = run_json(*train(f"{s3}/jobs/rows.zarr", model, "--max-steps", 6))
    assert trained["step"] == 6
    output = f"{s3}/jobs/out.zarr"
    predict = ["predict", f"{s3}/jobs/rows.zarr", "--model-dir", model, "--output", output]
    assert run_json(*predict)["rows"] == 900
    written = zarr.open_array(zarr_store(output), path="cluster_index", mode="r")
    assert np.array_equal(written[:], [*KMeans(4, model).predict_cluster_index(lambda: rows)])


def test_a_job_that_is_done_needs_no_cluster(run, run_json, store, tmp_path):
    command = train(store, tmp_path / "m", "--max-steps", 2)
    run_json(*command)
    nowhere = ["--cluster", "tcp://127.0.0.1:1"]
    assert run_json(*command, *nowhere)["status"] == "already done"
    code, _, err = run(*command, "--cluster", "nowhere")
    assert code == 2
    assert "--cluster must be threads" in err
