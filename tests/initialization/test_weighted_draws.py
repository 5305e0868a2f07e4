"""Draws by weight: rows of weight zero and chunks change nothing, and heavy rows come first."""

import numpy as np
import pytest

from dkmeans import Dataset, InvalidData, KMeans
from dkmeans.data.batches import Batch
from dkmeans.executors import Serial, Threads
from dkmeans.initialization.draws import Seed
from dkmeans.initialization.weighted_draws import Ranks, draw_by_weight

RNG = np.random.default_rng(0)
WEIGHTS = np.where(RNG.random(300) < 0.3, 0.0, np.exp(RNG.normal(size=300)))


def batch_of(weights, sizes=(300,)):
    """Return a batch of as many tables as there are sizes."""
    rows = np.zeros((len(weights), 2))
    cuts = np.cumsum(sizes)[:-1]
    tables = zip(np.split(rows, cuts), np.split(weights, cuts), strict=True)
    parts = [next(Dataset.from_array(*table).batches()) for table in tables]
    return Batch.concatenated(parts)


def draw(weights, most, seed=3, sizes=None):
    with Threads(2) as threads:
        return draw_by_weight(
            batch_of(weights, sizes or (len(weights),)), most, Seed(seed), threads
        )


def test_rows_are_numbered_among_those_with_a_weight():
    batch = batch_of(np.array([0.0, 1, 0, 2, 3, 0, 0, 4]), (3, 1, 4))
    ranks = Ranks.of(batch, Serial())
    assert (ranks.numbers.tolist(), ranks.firsts.tolist()) == ([0, 3, 4], [0, 1, 2])
    assert ranks.total == 4
    assert [ranks.first(number) for number in (0, 3, 4)] == [0, 1, 2]
    assert [chunk.number for chunk in ranks.renumbered(batch)] == [0, 1, 2]


@pytest.mark.parametrize("most", [1, 20, None])
@pytest.mark.parametrize("sizes", [(300,), (1, 299), (150, 20, 130)])
def test_a_draw_depends_neither_on_chunks_nor_on_rows_of_weight_zero(most, sizes):
    some = np.flatnonzero(WEIGHTS)
    expected = draw(WEIGHTS[some], most)
    found = draw(WEIGHTS, most, sizes=sizes)
    assert found.numbers.tolist() == some[expected.numbers].tolist()
    assert found.weights.tolist() == expected.weights.tolist()


def test_all_rows_with_a_weight_are_taken_in_order_if_they_fit():
    some = np.flatnonzero(WEIGHTS)
    for most in (len(some), 300, None):
        found = draw(WEIGHTS, most)
        assert found.numbers.tolist() == some.tolist()
        assert found.weights.tolist() == WEIGHTS[some].tolist()
    assert len(draw(np.zeros(5), 2).numbers) == 0


def test_rows_are_drawn_in_proportion_to_their_weights():
    weights = np.array([1.0, 2, 0, 5])
    counts = np.bincount([draw(weights, 1, seed).numbers[0] for seed in range(600)], minlength=4)
    # Priority sampling of one row: the exact chances of w / u being the largest.
    assert counts[2] == 0
    assert counts[0] < counts[1] < counts[3]
    assert counts[3] / 600 == pytest.approx(0.7, abs=0.1)


def test_weights_of_which_no_sum_is_finite_are_drawn_by_and_refused_later():
    assert len(draw(np.full(300, 1e308), 5).numbers) == 5
    rows, weights = RNG.normal(size=(300, 2)), np.full(300, 1e308)
    with pytest.raises(InvalidData, match="scale the columns, or the weights, first"):
        KMeans(2, seed=1).train(lambda: (rows, {"weights": weights}), steps=1)


def test_weights_of_drawn_rows_estimate_the_weight_of_all():
    totals = [draw(WEIGHTS, 60, seed).weights.sum() for seed in range(40)]
    assert np.mean(totals) == pytest.approx(WEIGHTS.sum(), rel=0.03)
    heavy = WEIGHTS.copy()
    heavy[7] = 1e6
    found = draw(heavy, 10)
    assert found.numbers[0] == 7
    assert found.weights[0] == 1e6
