"""Inputs: every format gives the same rows, and a bad input is refused."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from dkmeans_jobs.input import _term_in, names_in, open_input

import dkmeans
from dkmeans import Invalid, KMeans
from tests.jobs.commands import train


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
            part_rows = rows[part * 300 : part * 300 + 300]
            table = pa.table(
                {"c": part_rows[:, 2], "a": part_rows[:, 0], "s": ["x"] * 300, "b": part_rows[:, 1]}
            )
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


def test_an_input_that_cannot_be_used_exits_with_2_and_names_what_is_wrong(run, rows, tmp_path):
    (tmp_path / "x.csv").write_text("1,2\n")
    zarr.create_group(str(tmp_path / "group.zarr")).create_array("inside", data=rows)
    broken = rows.copy()
    broken[123, 1] = np.nan
    np.save(tmp_path / "nan.npy", broken)
    np.save(tmp_path / "flat.npy", rows[:, 0])
    (tmp_path / "not.npy").write_text("text")
    messages = {
        "x.csv": "must end in .zarr",
        "nothere.zarr": "nothing is there",
        "nothere.npy": "cannot be read",
        "nothere.parquet": "nothing is there",
        "group.zarr": "group.zarr::inside",
        "nan.npy": "row 123",
        "flat.npy": "2-D",
        "not.npy": "must be an .npy file",
    }
    for name, message in messages.items():
        code, _, err = run(*train(tmp_path / name, tmp_path / "m" / name))
        assert code == 2, name
        assert message in err
        assert "Traceback" not in err


def test_a_csv_file_is_refused_with_the_way_to_convert_it(run, tmp_path):
    code, _, err = run(*train(tmp_path / "rows.csv", tmp_path / "m"))
    assert code == 2
    assert "Write CSV as Parquet first" in err


def test_names_of_columns_must_not_be_empty(run, rows, tmp_path):
    pq.write_table(pa.table({"a": rows[:, 0]}), tmp_path / "r.parquet")
    code, _, err = run(*train(tmp_path / "r.parquet", tmp_path / "m", "--columns", "a,,b"))
    assert code == 2
    assert "--columns must be names with a comma between two, got 'a,,b'" in err


def write_parts(folder, rows):
    folder.mkdir()
    for number, part in enumerate(np.array_split(rows, 3), 9):
        table = pa.table(dict(zip("abc", part.T, strict=True)))
        pq.write_table(table, folder / f"part.{number}.parquet")
    return folder


def test_a_name_with_a_comma_is_in_quotes_or_an_entry_of_a_toml_list(run_json, rows, tmp_path):
    names = ["a,b", "price >= 2", 'say "x"']
    values = dict(zip(names, rows.T, strict=True)) | {"other": np.arange(len(rows))}
    pq.write_table(pa.table(values), tmp_path / "odd.parquet")
    train = ["train", tmp_path / "odd.parquet", "--num-clusters", 2, "--max-steps", 1]
    quoted = '"a,b",price >= 2,say "x"'
    config = tmp_path / "job.toml"
    config.write_text("columns = ['a,b', 'price >= 2', 'say \"x\"']\n")
    for number, given in enumerate((["--columns", quoted], ["--config", config])):
        model_dir = tmp_path / f"m{number}"
        run_json(*train, "--model-dir", model_dir, *given)
        assert dkmeans.load(model_dir).checkpoint().settings.columns == tuple(names)


@pytest.mark.parametrize("text", ['"a,b', '"a"b,c'])
def test_quotes_that_are_not_closed_are_refused(text):
    with pytest.raises(Invalid, match="--columns must be names with a comma between two, got"):
        names_in("--columns", text)


def test_folders_without_ending_patterns_and_several_inputs_give_the_same_rows(rows, tmp_path):
    folder = write_parts(tmp_path / "plain", rows)
    parts = [str(folder / f"part.{number}.parquet") for number in (9, 10, 11)]
    zarr.create_array(str(tmp_path / "stored"), data=rows)
    for given in (
        [str(folder)],
        [f"{folder}/"],
        [f"{folder}/*.parquet"],
        [f"{folder}/*"],
        [f"{tmp_path}/pla*"],
        parts,
        [str(tmp_path / "stored")],
    ):
        dataset = open_input(given, None)
        (batch,) = dataset.batches()
        loaded = np.vstack([chunk.load(dataset.width) for chunk in batch])
        assert np.array_equal(loaded, rows), given


def test_several_inputs_are_trained_on_and_named(run_json, rows, tmp_path):
    folder = write_parts(tmp_path / "plain", rows)
    parts = [f"{folder}/part.9.parquet", f"{folder}/part.1?.parquet"]
    job, *flags = train(parts[0], tmp_path / "m", "--max-steps", 1)
    found = run_json(job, parts[0], parts[1], *flags[1:])
    assert found["rows"] == 900
    assert run_json("info", tmp_path / "m")["trained_on"] == ", ".join(parts)


def test_inputs_that_cannot_be_used_together_are_refused(run, store, rows, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").touch()
    messages = {
        (store, f"{tmp_path}/rows.npy"): "all INPUTs must be of one kind",
        (f"{tmp_path}/*.csv",): "nothing is there",
        (f"{tmp_path}/empty",): "must end in .zarr",
        (f"{tmp_path}/notes",): "must end in .zarr",
        ("s3://bucket//rows.zarr",): "no empty name",
        ("s3:/bucket/rows.npy",): "must begin with s3://BUCKET",
    }
    for inputs, message in messages.items():
        code, _, err = run("plan", *inputs, "--num-clusters", 2)
        assert code == 2, inputs
        assert message in err
        assert "Traceback" not in err


@pytest.mark.parametrize("kind", ["npy", "parquet", "zarr"])
def test_every_kind_of_input_may_have_weights(run_json, kind, rows, tmp_path):
    times = np.arange(900) % 3
    np.save(tmp_path / "repeated.npy", np.repeat(rows, times, axis=0))
    address, weights = tmp_path / f"rows.{kind}", tmp_path / f"w.{kind}"
    if kind == "npy":
        np.save(address, rows)
        np.save(weights, times)
    elif kind == "parquet":
        weights = "times"
        columns = {f"c{i}": rows[:, i] for i in range(3)}
        pq.write_table(pa.table({"times": times, **columns}), address, row_group_size=100)
    else:
        zarr.create_array(str(address), data=rows, chunks=(77, 3))
        zarr.create_array(str(weights), data=times, chunks=(100,))
    run_json(*train(address, tmp_path / "one", "--weights", weights, "--seed", 1, "--steps", 1))
    evaluated = [
        run_json("evaluate", *what, "--model-dir", tmp_path / "one")
        for what in ((tmp_path / "repeated.npy",), (address, "--weights", weights))
    ]
    assert evaluated[0]["loss"] == evaluated[1]["loss"]
    assert evaluated[0]["average_loss"] == evaluated[1]["average_loss"]
    assert sum(run_json("info", tmp_path / "one")["cluster_sizes"]) == times.sum()


def test_weights_of_another_kind_than_the_input_are_refused(run, rows, store, tmp_path):
    np.save(tmp_path / "w.npy", np.ones(900))
    for weights, message in (
        (tmp_path / "w.npy", "--weights must be of the kind of INPUT, Zarr, got"),
        ("times", "INPUT must end in .zarr"),
        (tmp_path / "none.zarr", "nothing is there"),
    ):
        code, _, err = run(*train(store, tmp_path / "m", "--weights", weights))
        assert code == 2
        assert message in err


def test_a_model_is_not_done_with_other_weights(run, run_json, rows, tmp_path):
    columns = {f"c{i}": rows[:, i] for i in range(3)}
    table = pa.table({"a": np.arange(900.0), "b": np.arange(900.0)[::-1], **columns})
    pq.write_table(table, tmp_path / "rows.parquet")
    job = train(tmp_path / "rows.parquet", tmp_path / "m", "--columns", "c0,c1,c2", "--seed", 1)
    assert run_json(*job, "--weights", "a")["status"] == "trained"
    assert run_json(*job, "--weights", "a")["status"] == "already done"
    _, out, err = run(*job, "--weights", "b")
    assert "columns c0,c1,c2, weights a) and is continued" in err
    assert "already done" not in out


def test_filters_leave_out_rows_in_every_job(run, run_json, rows, tmp_path):
    folder, model = tmp_path / "rows", tmp_path / "model"
    for year in (2023, 2024):
        part = folder / f"year={year}"
        part.mkdir(parents=True)
        names = {**{n: rows[:, i] for i, n in enumerate("xyz")}, "n": range(900)}
        pq.write_table(pa.table(names), part / "0.parquet", row_group_size=300)
    terms = "--filter", "year >= 2024", "--filter", "n not in 7, 8", "--filter", '"n"<600'
    about = folder, "--columns", "x,y,z", *terms
    trained = run_json("train", *about, "--num-clusters", 4, "--model-dir", model, "--seed", 3)
    assert trained["rows"] == run_json("plan", *about, "--num-clusters", 4)["rows"] == 598
    found = run_json("evaluate", *about, "--model-dir", model)
    # The loss of training is that of the centers before the last step.
    assert found["loss"] == pytest.approx(trained["loss"], rel=1e-3)
    output = "--output", tmp_path / "o.parquet", "--keep", "n,year"
    assert run_json("predict", *about, "--model-dir", model, *output)["rows"] == 598
    kept = pq.read_table(tmp_path / "o.parquet")
    assert kept["n"].to_pylist() == [n for n in range(600) if n not in (7, 8)]
    assert set(kept["year"].to_pylist()) == {2024}
    models = "--num-clusters", 4, "--output", tmp_path / "sweep"
    assert run_json("sweep", *about, *models)["models"][0]["rows"] == 598
    page = tmp_path / "page.html"
    run_json("report", model, "--input", folder, *terms, "--output", page)
    assert "598" in page.read_text()
    for terms, message in (
        ("year", "--filter must be COLUMN COMPARISON VALUE"),
        ("year <> 3", "--filter must have one of the comparisons =, ==, !=, <, <=, >, >=, in, not"),
        ("year => 3", "got 'year => 3'; put a value that begins so in quotes"),
        ("year > x", "comparisons of 'year' with values of its type, int64, got 'x'"),
    ):
        code, _, err = run("plan", folder, "--num-clusters", 4, "--filter", terms)
        assert (code, message in err) == (2, True)


@pytest.mark.parametrize(
    ("given", "directory"),
    [
        ("rows", "rows"),
        ("rows/", "../here/rows/"),
        ("array.zarr", "array.zarr"),
        ("array.zarr", "array.zarr/model"),
        ("group.zarr::a", "group.zarr"),
        ("group.zarr::a", "group.zarr/a/model"),
        ("group.zarr", "group.zarr/a"),
    ],
)
def test_a_model_is_not_written_over_the_rows_it_is_trained_on(
    run, rows, tmp_path, given, directory, monkeypatch
):
    here = tmp_path / "here"
    (here / "rows").mkdir(parents=True)
    monkeypatch.chdir(here)
    pq.write_table(pa.table({"a": rows[:, 0]}), "rows/0.parquet")
    zarr.create_array("array.zarr", data=rows)
    zarr.create_group("group.zarr").create_array("a", data=rows)
    columns = ["--columns", "a"] if given == "group.zarr" else []
    before = sorted(here.rglob("*"))
    for job in (
        ["train", given, "--model-dir", directory, "--num-clusters", "3", *columns],
        ["sweep", given, "--output", directory, "--num-clusters", "3,4", *columns],
    ):
        code, _, err = run(*job)
        assert (code, err.count("\n")) == (2, 1)
        assert f"must be outside of INPUT {given}, which could no longer be read, got" in err
    assert sorted(here.rglob("*")) == before


def test_a_model_may_be_beside_the_array_in_the_same_store(run_json, rows, tmp_path):
    store = tmp_path / "group.zarr"
    zarr.create_group(str(store)).create_array("a", data=rows)
    for address, name, columns in ((f"{store}::a", "m", []), (store, "n", ["--columns", "a"])):
        trained = train(address, store / name, "--max-steps", 3, *columns)
        assert run_json(*trained)["status"] == "trained"
        assert run_json(*trained)["status"] == "already done"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("kind in x(1),y(2)", ("x(1)", "y(2)")),
        ("kind in (a, b)", ("a", "b")),
        ("kind in [a,b]", ("a", "b")),
        ("kind not in 'x,y',\"z\", it's", ("x,y", "z", "it's")),
        ("kind in a,'',b", ("a", "", "b")),
        ("'made in usa' in x", ("x",)),
    ],
)
def test_the_values_of_a_filter_are_taken_as_they_are_written(text, values):
    assert _term_in(text)[2] == values


@pytest.mark.parametrize("text", ["kind in a,,b", "kind in a,b,", "kind in ()"])
def test_a_value_that_is_missing_beside_a_comma_is_refused(text):
    with pytest.raises(Invalid, match="--filter must have a value before and after each comma"):
        _term_in(text)


def test_a_column_in_quotes_may_have_a_name_with_a_comparison():
    assert _term_in('"made in usa" == x') == ("made in usa", "==", "x")
