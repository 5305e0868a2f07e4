"""Progress: one record for each iteration, with every number that people or programs are shown."""

import logging

import pytest

from dkmeans.report import (
    IterationCost,
    Progress,
    RowProgress,
    RowReport,
    progress_of,
    report_progress,
)

COST = IterationCost(bytes=600, read_seconds=0.5, compute_seconds=1.5, workers=2, threads=4)
PROGRESS = Progress(
    step=6,
    last_step=20,
    loss=1234.5678,
    change=-0.00123,
    empty_clusters=0,
    steps=2,
    rows=3000,
    seconds=2.0,
    cost=COST,
)


def progress(**changes):
    return Progress(**{name: getattr(PROGRESS, name) for name in Progress.__slots__} | changes)


def test_numbers_are_flat_and_complete():
    assert PROGRESS.numbers() == {
        "step": 6,
        "last_step": 20,
        "loss": 1234.5678,
        "change": -0.00123,
        "empty_clusters": 0,
        "steps": 2,
        "rows": 3000,
        "seconds": 2.0,
        "relocated_clusters": 0,
        "starts": 1,
        "bytes": 600,
        "read_seconds": 0.5,
        "compute_seconds": 1.5,
        "checkpoint_seconds": 0.0,
        "workers": 2,
        "threads": 4,
        "retries": 0,
        "skipped": 0.0,
        "rows_per_second": 1500.0,
        "bytes_per_second": 300.0,
    }


def test_a_line_says_how_many_distances_were_skipped_and_never_all():
    skipped = {share: str(progress(cost=IterationCost(skipped=share))) for share in (0.005, 0.9999)}
    assert "skipped" not in skipped[0.005]
    assert skipped[0.9999].endswith(", 99.9 % skipped")


def test_time_left_is_that_of_all_steps_until_the_last():
    assert PROGRESS.seconds_left == 14.0  # 14 steps of one second


@pytest.mark.parametrize("last_step", [None, 6, 5])
def test_no_time_is_left_without_a_limit_or_at_the_last_step(last_step):
    assert progress(last_step=last_step).seconds_left is None


def test_an_iteration_of_no_time_has_finite_speeds():
    found = progress(seconds=0.0)
    assert 0 < found.rows_per_second < float("inf")
    assert 0 < found.numbers()["bytes_per_second"] < float("inf")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "step 6 of 20, loss 1234.57, change -1.2e-03, 1,500 rows/s"),
        ({"last_step": None, "change": None}, "step 6, loss 1234.57, 1,500 rows/s"),
        (
            {"change": None, "last_step": None, "empty_clusters": 1},
            "step 6, loss 1234.57, 1,500 rows/s, 1 empty cluster",
        ),
        (
            {"change": None, "empty_clusters": 3, "relocated_clusters": 2, "starts": 4},
            "step 6 of 20, loss 1234.57, 1,500 rows/s, 3 empty clusters, 2 relocated, 4 starts",
        ),
    ],
)
def test_the_text_has_the_numbers_that_matter(changes, text):
    assert str(progress(**changes)) == text


@pytest.mark.parametrize(("notable", "level"), [(True, logging.INFO), (False, logging.DEBUG)])
def test_only_a_notable_iteration_is_logged_for_people(caplog, notable, level):
    caplog.set_level(logging.DEBUG, "dkmeans")
    report_progress(PROGRESS, notable=notable)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("dkmeans", level)
    assert record.getMessage() == str(PROGRESS)
    assert progress_of(record) is PROGRESS


def test_other_records_carry_no_progress():
    record = logging.LogRecord("dkmeans", logging.INFO, __file__, 1, "text", None, None)
    assert progress_of(record) is None
    record.progress = "50 %"
    assert progress_of(record) is None


def test_the_progress_of_rows_has_the_share_that_is_done_and_the_time_left():
    half = RowProgress("predicted", 500, 1000, 250, 5.0)
    assert str(half) == "predicted 500 of 1,000 rows (50%), 50 rows/s"
    assert half.seconds_left == 10.0
    assert half.numbers() == {
        "work": "predicted",
        "rows_done": 500,
        "rows": 1000,
        "new_rows": 250,
        "seconds": 5.0,
        "rows_per_second": 50.0,
    }
    assert RowProgress("predicted", 1000, 1000, 750, 5.0).seconds_left is None


def test_of_an_unknown_number_of_rows_only_what_is_done_is_reported():
    one = RowProgress("evaluated", 1, None, 1, 0.5)
    assert str(one) == "evaluated 1 row, 2 rows/s"
    assert one.seconds_left is None


def test_the_first_and_the_last_rows_are_notable(caplog):
    caplog.set_level(logging.DEBUG, "dkmeans")
    report = RowReport("predicted", 10, rows_done=4)
    for _ in range(3):
        report.add(2)
    assert [record.levelname for record in caplog.records] == ["INFO", "DEBUG", "INFO"]
    assert [record.progress.rows_done for record in caplog.records] == [6, 8, 10]
    assert [record.progress.new_rows for record in caplog.records] == [2, 4, 6]
