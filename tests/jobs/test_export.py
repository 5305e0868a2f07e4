"""Export: the command writes the checkpoint that it is given."""

from pathlib import Path

import pytest

from dkmeans import KMeans
from tests.jobs.commands import train


def test_a_named_checkpoint_is_exported_in_place_of_the_latest(run_json, store, tmp_path):
    run_json(*train(store, tmp_path / "m", "--max-steps", 3, "--save-checkpoints-steps", 1))
    names = run_json("info", tmp_path / "m")["checkpoints"]
    first, latest = (str(tmp_path / "m" / names[i]) for i in (0, -1))
    export = ["export", "--model-dir", tmp_path / "m", "--output", tmp_path / "saved"]
    export += ["--format", "savedmodel"]
    assert (
        run_json(*export)["checkpoint"]
        == latest
        == KMeans(4, str(tmp_path / "m")).latest_checkpoint()
    )
    exported = run_json(*export, "--checkpoint", first)
    assert exported["checkpoint"] == first
    by_name = run_json(*export, "--checkpoint", names[0])
    assert by_name["checkpoint"] == first
    assert Path(exported["output"]).parent == tmp_path / "saved"
    assert (Path(exported["output"]) / "saved_model.pb").exists()


def test_a_checkpoint_of_another_model_is_refused(run, run_json, store, tmp_path):
    for name in ("m", "other"):
        run_json(*train(store, tmp_path / name, "--max-steps", 1))
    other = KMeans(4, str(tmp_path / "other")).latest_checkpoint()
    export = ["export", "--model-dir", tmp_path / "m", "--output", tmp_path / "saved"]
    code, _, err = run(*export, "--format", "savedmodel", "--checkpoint", other)
    assert code == 2
    assert f"--checkpoint must be one of {tmp_path / 'm'}, got '{other}'" in err
    assert not (tmp_path / "saved").exists()


def test_an_unknown_format_is_refused(run):
    with pytest.raises(SystemExit) as exit_:
        run("export", "--model-dir", "m", "--output", "o", "--format", "pmml")
    assert exit_.value.code == 2


@pytest.mark.parametrize("format_", ["onnx", "sklearn"])
def test_an_earlier_export_is_replaced_and_no_other_file(run, run_json, store, tmp_path, format_):
    run_json(*train(store, tmp_path / "m", "--max-steps", 1))
    export = ["export", "--model-dir", tmp_path / "m", "--format", format_]
    for _ in range(2):
        run_json(*export, "--output", tmp_path / "model")
    for other in (b"rows of the user", b"x"):
        (tmp_path / "rows.npy").write_bytes(other)
        code, _, err = run(*export, "--output", tmp_path / "rows.npy")
        assert (code, (tmp_path / "rows.npy").read_bytes()) == (2, other)
        assert "must be new, or an earlier export of the same format" in err
    (tmp_path / "empty").touch()
    run_json(*export, "--output", tmp_path / "empty")
