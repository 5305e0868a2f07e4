"""The command line: the flags of each job, and what is refused before a job begins."""

import pytest
from dkmeans_jobs.__main__ import main


def test_a_missing_argument_is_named(run, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["train", "x.zarr"])
    assert exit_.value.code == 2
    assert "--num-clusters is missing" in capsys.readouterr().err
