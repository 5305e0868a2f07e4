"""The plan of a fit: the same facts for people and for programs, and nothing is trained."""

import re

import numpy as np
import pytest
import zarr

from dkmeans import Dataset, Invalid, KMeans, Outage, RunConfig
from dkmeans.feature_columns import numeric_column

ROWS = np.random.default_rng(0).normal(size=(3000, 4)).astype(np.float32) * [1, 1, 1, 1000]


def test_a_plan_says_what_is_read_cached_and_taken(tmp_path):
    zarr.create_array(str(tmp_path / "rows.zarr"), data=ROWS.astype(np.float32), chunks=(1000, 4))
    model = KMeans(5, tmp_path / "m", use_mini_batch=False)
    plan = model.plan(lambda: Dataset.from_zarr(tmp_path / "rows.zarr"))
    facts = plan.facts()
    assert (facts["rows"], facts["columns"], facts["chunks"]) == (3000, 4, 1)
    assert facts["size"] == "48.0 kB"
    assert facts["kept_in_memory"] == "100%"
    assert facts["seconds_of_the_first_iteration"] >= 0
    (remark,) = plan.remarks
    assert remark.startswith("distances, and so clusters, hardly depend on column 0, column 1")
    text, page = repr(plan), plan._repr_html_()
    for shown in ("3,000", "48.0 kB", "hardly depend on"):
        assert shown in text
        assert shown in page
    assert "None" not in text
    assert re.findall(r"<li>(.*?)</li>", page)
    assert model.latest_checkpoint() is None


def test_a_plan_promises_bounds_only_where_the_backend_has_them():
    plans = {
        backend: KMeans(2, use_mini_batch=False, config=RunConfig(backend=backend)).plan(
            lambda: ROWS
        )
        for backend in ("native", "numpy")
    }
    assert "later iterations of full batch skip most distances" in plans["native"].facts()["bounds"]
    assert plans["numpy"].facts()["bounds"] == "none: every iteration computes all distances"


def test_each_start_has_bounds_and_mini_batches_have_none():
    one, eight = (
        KMeans(2, use_mini_batch=False, num_restarts=n, seed=0).plan(lambda: ROWS) for n in (1, 8)
    )
    assert eight.bounds_bytes == 8 * one.bounds_bytes > 0
    assert KMeans(2).plan(lambda: Dataset.from_array(ROWS).batch(100)).bounds_bytes == 0
    in_turn = Dataset.from_array(ROWS).batch(100).repeat()
    assert KMeans(2, use_mini_batch=False).plan(lambda: in_turn).bounds_bytes == 0


def test_the_chunks_of_a_plan_are_those_of_training_with_feature_columns_too():
    columns = [numeric_column("x", shape=(4,))]
    model = KMeans(2000, feature_columns=columns, use_mini_batch=False)
    rows = np.random.default_rng(0).normal(size=(600_000, 4)).astype(np.float32)
    found = model.plan(lambda: {"x": rows})
    assert found.preflight.chunk_bytes <= 2**23


def test_a_plan_of_rows_in_memory_names_their_columns_and_one_of_too_few_is_refused():
    model = KMeans(2, use_mini_batch=False)
    plan = model.plan(lambda: {"a": ROWS[:, 0], "b": ROWS[:, 1]})
    assert plan.facts()["column_names"] == ["a", "b"]
    assert "column names: a, b" in repr(plan)
    assert plan.remarks == ()
    with pytest.raises(Invalid, match="num_clusters must be at most the number of rows, 1, got 2"):
        model.plan(lambda: ROWS[:1])


def test_a_plan_whose_timing_fails_ends_with_what_was_found_before(tmp_path, monkeypatch):
    zarr.create_array(str(tmp_path / "rows.zarr"), data=ROWS, chunks=(3000, 4))
    monkeypatch.setattr("dkmeans.preflight._HELD_PER_THREAD", 10**9)

    def killed(*_):
        raise Outage("workers were lost")

    monkeypatch.setattr("dkmeans.planning.scale_remarks", killed)
    with pytest.raises(
        Outage, match=r"^workers were lost; a chunk is 96.0 kB, and a worker thread"
    ):
        KMeans(5, tmp_path / "m").plan(lambda: Dataset.from_zarr(tmp_path / "rows.zarr"))
