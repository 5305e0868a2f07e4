"""The flags of the jobs: their help, and the values that they take."""

import inspect
import re

import pytest
from dkmeans_jobs.__main__ import main
from dkmeans_jobs.flags import FLAGS
from dkmeans_jobs.parser import build_parser
from dkmeans_jobs.train import _MAX_STEPS, _TOLERANCE

from dkmeans import KMeans, RunConfig
from dkmeans.initialization import NAMES
from tests.jobs.commands import train


def subcommands():
    parser = build_parser()
    (jobs,) = (a for a in parser._actions if hasattr(a, "choices") and a.dest == "job")
    return jobs.choices


def test_every_flag_is_of_some_job():
    used = {
        (action.option_strings or [action.dest])[-1]
        for job in subcommands().values()
        for action in job._actions
    }
    assert set(FLAGS) <= used


@pytest.mark.parametrize("name", subcommands())
def test_every_job_and_every_flag_has_help(name):
    job = subcommands()[name]
    assert job.description
    for action in job._actions:
        assert action.help, f"{name} {action.option_strings}"


# Flags that take a value and have no default.
_WITHOUT_DEFAULT = {"--num-clusters", "--model-dir", "--output", "--format"}


@pytest.mark.parametrize("name", subcommands())
def test_the_help_of_each_option_names_its_default(name):
    for action in subcommands()[name]._actions:
        flag = (action.option_strings or [""])[-1]
        if flag in ("", "--help", "--backends", *_WITHOUT_DEFAULT):
            continue
        assert re.search(r"\(default |the default\)|; default ", action.help), f"{name} {flag}"


def test_the_help_names_the_defaults_that_hold():
    job = inspect.signature(KMeans).parameters
    own = {action.dest: action.help for action in subcommands()["train"]._actions}
    names = {"metric": "distance_metric", "init": "initial_clusters", "oversampling": None}
    names |= {"initialization_rounds": None, "num_restarts": None, "empty_clusters": None}
    names |= {"steps_per_iteration": "mini_batch_steps_per_iteration"}
    for flag, name in names.items():
        assert (
            f"default {job[name or flag].default:{'g' if flag == 'oversampling' else ''}}"
            in (own[flag])
        )
    assert f"default {RunConfig().cache}" in own["cache"]
    assert f"default {RunConfig().save_checkpoints_secs:g}" in own["save_checkpoints_secs"]
    assert f"default {_TOLERANCE:.0e}".replace("e-0", "e-") in own["relative_tolerance"]
    assert f"limit: {_MAX_STEPS}" in own["max_steps"]


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


@pytest.mark.parametrize("flag", ["--columns", "--keep"])
def test_names_in_two_flags_are_refused_as_only_the_last_would_count(flag, capsys):
    with pytest.raises(SystemExit):
        main(["predict", "rows.parquet", "--model-dir", "m", "--output", "o", flag, "x", flag, "y"])
    told = f"argument {flag}: must be given once, with a comma between two names"
    assert told in capsys.readouterr().err
