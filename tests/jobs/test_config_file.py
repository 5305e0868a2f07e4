"""The TOML file of flags, which the command line overrules."""

import pytest

from dkmeans import KMeans
from tests.jobs.commands import train


def test_flags_come_from_a_file_too_and_the_command_line_overrules_it(run_json, store, tmp_path):
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


def test_a_file_of_flags_with_an_unknown_key_is_refused_by_that_key(run, store, tmp_path):
    job = tmp_path / "job.toml"
    job.write_text("num-klusters = 4\n")
    code, _, err = run(*train(store, tmp_path / "m"), "--config", job)
    assert code == 2
    assert "must have keys that are flags of train, got 'num-klusters'; the flags are " in err


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("num-clusters = true", "num-clusters in {} must be a text or a number, or a list of them"),
        ("model-dir = true", "model-dir in {} must be a text or a number"),
        ("batch-rows = false", "batch-rows in {} must be a text or a number"),
        ('full-batch = "yes"', "full-batch in {} must be true or false, got 'yes'"),
        ("standardize = 0", "standardize in {} must be true or false, got 0"),
        ('filter = [["id", "<", 10]]', "filter in {} must be a text or a number, or a list"),
        ("[columns]\na = 1", "columns in {} must be a text or a number"),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_key_and_file(
    run, store, tmp_path, entry, message
):
    job = tmp_path / "job.toml"
    job.write_text(f"{entry}\n")
    code, _, err = run(*train(store, tmp_path / "m"), "--config", job)
    assert code == 2
    assert message.format(job) in err
