"""The flags of the jobs, and their help."""

import inspect
import re

import pytest
from dkmeans_jobs.__main__ import main
from dkmeans_jobs.flags import build_parser
from dkmeans_jobs.train import _MAX_STEPS, _TOLERANCE

from dkmeans import KMeans, RunConfig


def test_a_missing_argument_is_named(run, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["train", "x.zarr"])
    assert exit_.value.code == 2
    assert "--num-clusters is missing" in capsys.readouterr().err


def subcommands():
    parser = build_parser()
    (jobs,) = (a for a in parser._actions if hasattr(a, "choices") and a.dest == "job")
    return jobs.choices


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
