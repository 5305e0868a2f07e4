"""The command line: the flags of each job, and what is refused before a job begins."""

import pytest
from dkmeans_jobs.__main__ import main


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["report", "", "--output", "a.html"], "MODEL_DIR"),
        (["report", "m", "--input", "", "--output", "a.html"], "--input"),
        (["info", ""], "DIR"),
        (["plan", "", "b.npy", "--num-clusters", "2"], "INPUT"),
        (["plan", "a.parquet", "--filter", "", "--num-clusters", "2"], "--filter"),
    ],
)
def test_an_empty_argument_is_refused_by_its_name(capsys, argv, name):
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 2
    assert f"argument {name}: must not be empty" in capsys.readouterr().err


def test_a_missing_argument_is_named(run, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["train", "x.zarr"])
    assert exit_.value.code == 2
    assert "--num-clusters is missing" in capsys.readouterr().err
