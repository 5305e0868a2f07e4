"""Estimates before training."""

import re


def test_plan_estimates_training_and_writes_nothing(run, run_json, store, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    plan = run_json("plan", store, "--num-clusters", 4, "--cache", "none")
    assert (plan["rows"], plan["columns"], plan["dtype"]) == (900, 3, "float32")
    assert (plan["bytes"], plan["chunks"], plan["largest_chunk_bytes"]) == (10_800, 1, 10_800)
    assert (plan["cached_share"], plan["workers"]) == (0.0, 1)
    assert plan["threads"] >= 1
    assert plan["worker_memory_bytes"] > 10**8
    assert 0 < plan["seconds_of_a_later_one"] <= plan["seconds_of_the_first_iteration"] < 10
    assert plan["bounds_bytes"] == 9000
    assert plan["remarks"] == []
    assert sorted(tmp_path.rglob("*")) == before
    code, out, _ = run("plan", store, "--num-clusters", 4)
    assert code == 0
    assert "kept in memory                  100%" in out
    told = r"^bounds +9.0 kB beside the rows, if there is room and they save time: "
    assert re.search(told, out, re.MULTILINE)


def test_plan_refuses_what_train_refuses(run, store):
    for argv, text in (
        (["plan", "rows.csv", "--num-clusters", 4], "INPUT must end in"),
        (
            ["plan", store, "--num-clusters", 901],
            "must be at most the number of rows, 900, got 901",
        ),
        (["plan", store, "--num-clusters", 0], "--num-clusters must be an integer >= 1, got 0"),
    ):
        code, _, err = run(*argv)
        assert code == 2
        assert text in err
