"""The command, as a person runs it: real processes, real clusters, real signals."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from dkmeans_jobs.__main__ import main
from dkmeans_jobs.command_line import build_parser

from dkmeans import KMeans, checkpoints
from dkmeans.executors.cores import usable_cores
from dkmeans.storage import zarr_store

COMMAND = [sys.executable, "-m", "dkmeans_jobs"]


@pytest.fixture
def rows():
    rng = np.random.default_rng(11)
    places = rng.normal(size=(4, 3)) * 8
    return (places[rng.integers(4, size=900)] + rng.normal(size=(900, 3))).astype(np.float32)


@pytest.fixture
def store(rows, tmp_path):
    path = str(tmp_path / "rows.zarr")
    zarr.create_array(path, data=rows, chunks=(100, 3))
    return path


@pytest.fixture
def run(capsys):
    def run(*argv):
        code = main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def run_json(run):
    def run_json(*argv):
        code, out, err = run(*argv, "--json")
        assert code == 0, err
        return json.loads(out)

    return run_json


def train(store, model, *more):
    return ["train", store, "--num-clusters", 4, "--model-dir", model, "--seed", 3, *more]


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


def test_several_starts_and_a_policy_for_empty_clusters_are_told_by_train_and_info(
    run, run_json, store, tmp_path
):
    more = ["--num-restarts", 3, "--empty-clusters", "relocate"]
    trained = run_json(*train(store, tmp_path / "m", *more))
    told = run_json("info", tmp_path / "m")
    for name in ("best_start", "losses_of_starts", "steps_of_starts", "loss"):
        assert told[name] == trained[name]
    assert told["loss"] == min(told["losses_of_starts"])
    assert len(told["steps_of_starts"]) == 3
    assert told["relocated_clusters"] == 0
    code, _, err = run(*train(store, tmp_path / "m"))
    assert code == 2
    assert "num_restarts must be that of the model in model_dir, 3" in err


@pytest.mark.parametrize("kind", ["npy", "parquet", "zarr::array"])
def test_every_kind_of_input_gives_the_same_model(run_json, kind, rows, store, tmp_path):
    by_kind = {"npy": tmp_path / "r.npy", "parquet": tmp_path / "r", "zarr::array": "g.zarr::a"}
    address = by_kind[kind]
    columns = []
    if kind == "npy":
        np.save(address, rows)
    elif kind == "parquet":
        address = tmp_path / "r.parquet"
        address.mkdir()
        for part in range(3):
            own = rows[part * 300 : part * 300 + 300]
            table = pa.table({"c": own[:, 2], "a": own[:, 0], "s": ["x"] * 300, "b": own[:, 1]})
            pq.write_table(table, address / f"part-{part}.parquet")
        columns = ["--columns", "a,b,c"]
    else:
        address = f"{tmp_path / 'g.zarr'}::inner/a"
        group = zarr.create_group(str(tmp_path / "g.zarr"))
        group.create_array("inner/a", data=rows, chunks=(77, 3))
    run_json(*train(address, tmp_path / "one", *columns, "--full-batch", "--steps", 5))
    run_json(*train(store, tmp_path / "two", "--full-batch", "--steps", 5))
    one, two = (KMeans(4, str(tmp_path / name)).cluster_centers() for name in ("one", "two"))
    assert np.allclose(one, two, rtol=1e-6)


def test_the_same_command_again_resumes_and_then_says_that_it_is_done(run_json, store, tmp_path):
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


def test_other_rows_are_trained_on_though_the_model_has_converged(run_json, store, rows, tmp_path):
    run_json(*train(store, tmp_path / "m"))
    np.save(tmp_path / "more.npy", rows[:500] + 1)
    assert run_json(*train(tmp_path / "more.npy", tmp_path / "m"))["status"] == "trained"


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


def test_mini_batches_go_once_over_the_data_when_nothing_else_ends_them(run_json, store, tmp_path):
    once = run_json(*train(store, tmp_path / "m", "--batch-rows", 250))
    assert once["step"] == 4
    again = run_json(*train(store, tmp_path / "m", "--batch-rows", 250))
    assert again["status"] == "already done"


def test_plan_tells_what_training_would_take_and_writes_nothing(run, run_json, store, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    told = run_json("plan", store, "--num-clusters", 4, "--cache", "none")
    assert (told["rows"], told["columns"], told["dtype"]) == (900, 3, "float32")
    assert (told["size"], told["chunks"], told["largest_chunk"]) == ("10.8 kB", 1, "10.8 kB")
    assert told["kept_in_memory"] == "0%"
    assert 0 < told["seconds_of_a_later_one"] <= told["seconds_of_the_first_iteration"] < 10
    assert told["remarks"] == []
    assert sorted(tmp_path.rglob("*")) == before
    code, out, _ = run("plan", store, "--num-clusters", 4)
    assert code == 0
    assert "kept in memory                  100%" in out


def test_plan_refuses_what_train_would(run, store):
    for argv, text in (
        (["plan", "rows.csv", "--num-clusters", 4], "INPUT must end in"),
        (["plan", store, "--num-clusters", 0], "--num-clusters must be an integer >= 1, got 0"),
    ):
        code, _, err = run(*argv)
        assert code == 2
        assert text in err


def test_info_tells_what_is_in_a_model(run, run_json, store, tmp_path):
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


def test_info_tells_what_this_machine_computes_with(run_json):
    about = run_json("info", "--backends")
    assert about["cuda"].startswith("backend 'cuda' cannot be used on this machine: ")
    assert about["default"].startswith("native")
    assert "bits" in about["native"]
    assert f"numpy {np.__version__}" in about["numpy"]


@pytest.mark.parametrize("where", ["threads", "local"])
def test_either_backend_finds_the_same_clusters(run_json, store, tmp_path, where):
    results = []
    for backend in ("native", "numpy"):
        model, output = tmp_path / backend, tmp_path / f"{backend}.zarr"
        more = ["--backend", backend, "--cluster", where]
        more += ["--workers", 1] if where == "local" else []
        trained = run_json(*train(store, model, *more))
        run_json("predict", store, "--model-dir", model, "--output", output, *more)
        results.append((trained["step"], zarr.open_group(output)["cluster_index"][:].tolist()))
    assert results[0] == results[1]


def test_flags_come_from_a_file_too_and_win_over_it(run_json, store, tmp_path):
    job = tmp_path / "job.toml"
    job.write_text(
        f'input = "{store}"\nnum-clusters = 4\nmodel-dir = "{tmp_path / "m"}"\nseed = 3\n'
        "full-batch = true\nmax-steps = 2\n"
    )
    assert run_json("train", "--config", job)["step"] == 2
    assert run_json("train", "--config", job, "--max-steps", 3)["step"] == 3
    batches = run_json(
        "train", "--config", job, "--batch-rows", 450, "--model-dir", tmp_path / "other"
    )
    assert batches["step"] == 2
    assert KMeans(4, str(tmp_path / "other")).latest_checkpoint() is not None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--num-clusters", "0"], "num_clusters must be an integer >= 1, got 0"),
        (["--num-clusters", "901"], "901"),
        (["--full-batch", "--batch-rows", "5"], "must not both be given"),
        (["--steps", "1", "--max-steps", "1"], "must not both be given"),
        (["--steps", "0"], "Must specify steps > 0, given: 0"),
        (["--steps-per-iteration", "2"], "must come with --batch-rows"),
        (["--batch-rows", "0"], "--batch-rows must be >= 1, got 0"),
        (["--columns", "a"], "--columns must come with a Parquet input"),
        (["--workers", "2"], "--workers must come with --cluster local"),
        (["--cluster", "nowhere"], "--cluster must be threads, local, local-cuda or tcp://"),
        (["--cluster", "local", "--memory-limit", "much"], "--memory-limit must be a size"),
        (["--cluster", "local-cuda"], "--cluster local-cuda must have "),
        (["--backend", "cuda"], "backend 'cuda' cannot be used on this machine: "),
        (["--relative-tolerance", "-1"], "relative_tolerance must be > 0"),
        (["--config", "nothere.toml"], "nothere.toml cannot be read"),
    ],
)
def test_a_mistake_is_told_without_a_traceback_and_exits_with_2(run, store, tmp_path, more, said):
    code, out, err = run(*train(store, tmp_path / "m"), *more)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert out == ""


def test_an_input_that_cannot_be_used_exits_with_2_and_names_what_is_wrong(run, rows, tmp_path):
    (tmp_path / "x.csv").write_text("1,2\n")
    zarr.create_group(str(tmp_path / "group.zarr")).create_array("inside", data=rows)
    broken = rows.copy()
    broken[123, 1] = np.nan
    np.save(tmp_path / "nan.npy", broken)
    np.save(tmp_path / "flat.npy", rows[:, 0])
    (tmp_path / "not.npy").write_text("text")
    said = {
        "x.csv": "must end in .zarr",
        "nothere.zarr": "nothing is there",
        "nothere.npy": "cannot be read",
        "nothere.parquet": "nothing is there",
        "group.zarr": "group.zarr::inside",
        "nan.npy": "row 123",
        "flat.npy": "2-D",
        "not.npy": "must be an .npy file",
    }
    for name, words in said.items():
        code, _, err = run(*train(tmp_path / name, tmp_path / "m" / name))
        assert code == 2, name
        assert words in err
        assert "Traceback" not in err


def test_another_number_of_clusters_than_the_models_is_refused(run, run_json, store, tmp_path):
    run_json(*train(store, tmp_path / "m"))
    code, _, err = run("train", store, "--num-clusters", 5, "--model-dir", tmp_path / "m")
    assert code == 2
    assert "num_clusters must be that of the model in model_dir, 4" in err
    assert "got 5" in err


def test_a_file_of_flags_with_an_unknown_key_is_refused_by_that_key(run, store, tmp_path):
    job = tmp_path / "job.toml"
    job.write_text("num-klusters = 4\n")
    code, _, err = run(*train(store, tmp_path / "m"), "--config", job)
    assert code == 2
    assert "num-klusters" in err


def test_a_missing_argument_is_told_by_name(run, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["train", "x.zarr"])
    assert exit_.value.code == 2
    assert "--num-clusters is missing" in capsys.readouterr().err


def test_a_model_that_is_not_there_exits_with_2(run, store, tmp_path):
    for argv in (
        ["info", tmp_path / "no"],
        ["evaluate", store, "--model-dir", tmp_path / "no"],
        ["predict", store, "--model-dir", tmp_path / "no", "--output", tmp_path / "o.zarr"],
    ):
        code, _, err = run(*argv)
        assert code == 2
        assert "Could not find trained model" in err


def test_a_local_cluster_gives_the_bits_that_threads_give(run_json, store, tmp_path):
    cluster = ["--cluster", "local", "--workers", 2, "--threads-per-worker", 1]
    for name, where in (("threads", []), ("local", [*cluster, "--memory-limit", "1GB"])):
        run_json(*train(store, tmp_path / name, "--max-steps", 6, *where))
        output = tmp_path / f"{name}.parquet"
        run_json("predict", store, "--model-dir", tmp_path / name, "--output", output, *where)
    threads, local = (checkpoints.latest(str(tmp_path / n)).state for n in ("threads", "local"))
    assert np.array_equal(threads.centers, local.centers)
    assert threads.inertia == local.inertia
    assert pq.read_table(tmp_path / "threads.parquet").equals(
        pq.read_table(tmp_path / "local.parquet")
    )


@pytest.mark.parametrize("where", [[], ["--cluster", "local", "--workers", "2"]])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_or_sigterm_saves_a_checkpoint_and_the_same_command_goes_on(
    tmp_path, where, number, code
):
    rows = np.random.default_rng(0).normal(size=(60_000, 16)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    argv = [*COMMAND, "train", tmp_path / "rows.npy", "--num-clusters", "1000"]
    argv = [*map(str, argv), "--model-dir", str(tmp_path / "m"), "--seed", "1", "--steps", "100000"]
    with subprocess.Popen(
        [*argv, *where], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while "step 1 " not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(0.5)
        os.killpg(process.pid, number)  # a terminal, or a system, sends it to the workers too
        _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert "Run the same command again" in err
    state = checkpoints.latest(str(tmp_path / "m")).state
    assert state.step > 0
    more = ["train", str(tmp_path / "rows.npy"), "--num-clusters", "1000", "--json"]
    more += ["--model-dir", str(tmp_path / "m"), "--max-steps", str(state.step + 2)]
    rerun = subprocess.run([*COMMAND, *more], capture_output=True, text=True, check=True)
    assert json.loads(rerun.stdout)["step"] == state.step + 2


def test_a_log_for_programs_has_a_json_object_a_line(store, tmp_path):
    argv = [*COMMAND, *map(str, train(store, tmp_path / "m", "--steps", 3, "--log-format", "json"))]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    events = [json.loads(line) for line in done.stderr.splitlines()]
    iterations = [each for each in events if each["event"] == "iteration"]
    assert [each["step"] for each in iterations] == [1, 2, 3]
    assert all(each["rows"] == len(np.asarray(zarr.open(store))) for each in iterations)
    assert {"loss", "change", "seconds", "rows_per_second", "empty_clusters"} <= set(iterations[0])
    assert all(each["bytes"] == each["rows"] * 3 * 4 for each in iterations)
    parts = ("read_seconds", "compute_seconds", "checkpoint_seconds")
    assert all(sum(each[part] for part in parts) <= each["seconds"] for each in iterations)
    assert all(each["compute_seconds"] > 0 == each["retries"] for each in iterations)
    assert all((each["workers"], each["threads"]) == (1, usable_cores()) for each in iterations)
    assert any("finding the first centers" in each["message"] for each in events)
    assert all(each["time"].endswith("Z") and each["level"] for each in events)
    argv[argv.index("--num-clusters") + 1] = "7000"
    failed = subprocess.run(
        [*argv, "--model-dir", str(tmp_path / "n")], capture_output=True, text=True
    )
    last = json.loads(failed.stderr.splitlines()[-1])
    assert (failed.returncode, last["event"], last["exit_code"]) == (2, "exit", 2)
    assert "num_clusters = 7000" in last["message"]


def test_a_file_for_prometheus_has_the_last_numbers(run_json, store, tmp_path):
    metrics = tmp_path / "dkmeans.prom"
    result = run_json(*train(store, tmp_path / "m", "--steps", 3, "--metrics-file", metrics))
    lines = metrics.read_text().splitlines()
    assert "dkmeans_global_step 3.0" in lines
    (loss,) = [float(line.split()[1]) for line in lines if line.startswith("dkmeans_loss ")]
    assert loss == pytest.approx(result["loss"])


def test_a_terminal_shows_a_line_that_is_written_over(store, tmp_path):
    driver, terminal = pty.openpty()
    argv = [str(a) for a in train(store, tmp_path / "m", "--max-steps", 5)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    done = subprocess.run(
        [*COMMAND, *argv],
        stderr=terminal,
        stdout=subprocess.PIPE,
        env=environment,
        check=True,
        text=True,
    )
    os.close(terminal)
    shown = os.read(driver, 2**16).decode()
    assert re.search(r"step \d of 5, loss [\d.]+", shown)
    assert "\r" in shown
    assert "rows/s" in shown
    assert "already" not in done.stdout


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


def test_the_demo_clusters_real_flights(run_json, tmp_path):
    result = run_json("demo", "--directory", tmp_path / "demo")
    assert result["flights"] == sum(result["cluster_sizes"]) == 327_346
    assert min(result["cluster_sizes"]) > 0
    index = zarr.open_group(result["predictions"], mode="r")["cluster_index"]
    assert np.bincount(index[:]).tolist() == result["cluster_sizes"]


def subcommands():
    parser = build_parser()
    (jobs,) = (a for a in parser._actions if hasattr(a, "choices") and a.dest == "job")
    return jobs.choices


@pytest.mark.parametrize("name", subcommands())
def test_every_flag_has_help_and_every_job_is_in_the_readme(name):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    job = subcommands()[name]
    assert job.description
    assert f"dkmeans {name}" in readme
    for action in job._actions:
        assert action.help, f"{name} {action.option_strings}"
        for flag in action.option_strings[-1:]:
            assert flag in ("--help",) or flag in readme, f"{flag} is not in the README"
