"""Measures of chunks: the same score as without indices, and bad rows are named."""

import numpy as np
import pytest

from dkmeans import InvalidData
from dkmeans.data.chunks import Chunk
from dkmeans.data.sources.memory import MemoryRows
from dkmeans.distance import Centers, Distance
from dkmeans.prediction.measures import Measures, Measuring, measure
from dkmeans.prediction.per_chunk import score
from tests.reference import METRICS

ROWS = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)


def loaded(rows):
    return Chunk(MemoryRows(rows, "rows"), 0, len(rows)).loaded()


def task(metric):
    centers = Centers(ROWS[:5] + np.float32(0.5), Distance(metric))
    return Measuring(
        centers, with_moments=True, with_squares=True, against=centers, with_sample=True
    )


@pytest.mark.parametrize("metric", METRICS)
def test_the_score_has_the_bits_of_one_without_indices(metric):
    found = measure(loaded(ROWS), task(metric))
    assert found.score == score(loaded(ROWS), task(metric).centers)
    assert found.sample is not None
    total = found + Measures.zero(task(metric))
    assert total.score == found.score
    assert total.contingency.pairs.tolist() == [0, 6, 12, 18, 24]


@pytest.mark.parametrize("bad", [np.nan, 1e200])
def test_rows_that_cannot_be_judged_are_refused_by_name(bad):
    rows = ROWS.astype(np.float64)
    rows[7, 1] = bad
    with pytest.raises(InvalidData, match=r"row 7 of rows has nan|values of rows are up to 1e.200"):
        measure(loaded(rows), task("squared_euclidean"))
