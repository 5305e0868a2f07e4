"""Flags that several jobs have: the values that they take."""

import pytest
from dkmeans_jobs.__main__ import main

from dkmeans.initialization import NAMES
from tests.jobs.commands import train


@pytest.mark.parametrize("by_file", [False, True])
def test_a_removed_init_is_refused_and_its_replacement_named(by_file, store, tmp_path, capsys):
    job = tmp_path / "job.toml"
    job.write_text('init = "afk-mc2"\n')
    more = ["--config", job] if by_file else ["--init", "afk-mc2"]
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in train(store, tmp_path / "m", *more)])
    assert exit_.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "removed" in line)
    assert line.endswith("argument --init: 'afk-mc2' was removed; use --init k-means|| instead")
    assert "k-means||" in NAMES
