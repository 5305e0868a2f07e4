"""Exit codes and error lines of the command."""

import pytest

from tests.jobs.commands import train


@pytest.mark.parametrize(
    ("more", "message"),
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
def test_a_mistake_of_the_user_exits_with_2_and_without_a_traceback(
    run, store, tmp_path, more, message
):
    code, out, err = run(*train(store, tmp_path / "m"), *more)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""
