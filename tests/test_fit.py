"""A fit of several starts: the best one, those that are running, and a sentence about each."""

import math
from dataclasses import replace

import numpy as np
import pytest

from dkmeans.fit import Fit, Start
from dkmeans.state import PartialSums, StopReason, TrainState


def start(loss=None, rows=10, reason=None, steps=3, **more):
    state = TrainState(np.zeros((1, 1)), np.ones(1, np.int64), step=7, inertia=loss, **more)
    return Start(replace(state, inertia_rows=rows), reason, steps)


def test_starts_of_batches_of_other_sizes_are_compared_by_their_mean_distance():
    few, many = start(9.0, 3), start(20.0, 10)
    assert (few.mean_distance, many.mean_distance) == (3.0, 2.0)
    assert Fit((few, many)).best == 1
    assert Fit((few, many)).state is many.state


def test_of_equally_good_starts_the_first_is_the_best():
    assert Fit((start(5.0), start(4.0), start(4.0))).best == 1


def test_a_start_without_a_loss_is_the_worst():
    assert start(None).mean_distance == math.inf
    assert Fit((start(None), start(1e300))).best == 1
    assert Fit((start(None), start(None))).best == 0


def test_a_loss_of_no_rows_is_not_divided_by_zero():
    assert start(0.0, rows=0).mean_distance == 0.0


def test_running_starts_are_those_without_a_reason_to_stop():
    fit = Fit((start(1.0), start(2.0, reason=StopReason.CONVERGED), start(3.0)))
    assert fit.running == (0, 2)
    assert fit.step == 7


@pytest.mark.parametrize("first", [0, 2])
def test_pending_steps_are_those_of_the_running_starts(first):
    pending = {"pending": PartialSums.zero((1, 1)), "pending_steps": 2}
    starts = (start(1.0, **pending if first else {}), start(2.0, **pending))
    assert Fit(starts).pending_steps == 2


def test_each_of_several_starts_is_described_and_the_best_one_marked():
    fit = Fit((start(12.34567), start(2.0, steps=5), start(None, steps=0)))
    assert list(fit.describe()) == [
        "start 0: loss 12.3457 after 3 steps",
        "start 1: loss 2 after 5 steps, the best",
        "start 2: loss none yet after 0 steps",
    ]


def test_a_single_start_is_not_described():
    assert list(Fit((start(1.0),)).describe()) == []
