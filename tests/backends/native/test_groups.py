"""Groups of centers: every center is in one, and movements are never too small."""

from itertools import pairwise

import numpy as np
import pytest

from dkmeans.backends.native.groups import Course, can_group, grouped
from dkmeans.distance import Centers, Distance

EUCLIDEAN = Distance.SQUARED_EUCLIDEAN


@pytest.mark.parametrize("k", [1, 15, 16, 17, 33, 100, 257])
def test_every_center_is_in_one_group(k):
    members = grouped(np.random.default_rng(0).normal(size=(k, 5)))
    assert len(members) % 16 == 0
    assert sorted(members[members >= 0].tolist()) == list(range(k))
    assert len(members) // 16 <= max(1, -(-k // 16) + 1)


def test_neighbors_are_in_the_same_group():
    centers = np.repeat(np.arange(4.0) * 100, 16)[:, None] + np.random.default_rng(0).random(
        (64, 1)
    )
    order = np.random.default_rng(1).permutation(64)
    members = grouped(centers[order]).reshape(4, 16)
    assert {tuple(np.unique(centers[order][group] // 100)) for group in members} == {
        (0,), (1,), (2,), (3,)
    }  # fmt: skip


def test_equal_centers_can_be_grouped():
    assert set(grouped(np.zeros((40, 3))).tolist()) == set(range(-1, 40))


def test_movements_add_up_along_the_course_and_are_rounded_up():
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(40, 7)).astype(np.float32) for _ in range(4)]
    course = Course(Centers(values[0], EUCLIDEAN), np.float32)
    stages = [course.stage(Centers(each, EUCLIDEAN)) for each in values]
    members = stages[0].grouped.members.reshape(-1, 16)
    moved = [np.linalg.norm(b.astype(float) - a, axis=1) for a, b in pairwise(values)]
    movement = stages[-1].movement_since(stages[0])
    direct = np.linalg.norm(values[-1].astype(float) - values[0], axis=1)
    assert (movement.of_centers >= direct).all()
    assert np.allclose(movement.of_centers, direct, rtol=1e-5)
    for group, centers in enumerate(members):
        largest = sum(each[centers[centers >= 0]].max() for each in moved)
        assert movement.reach[group] >= largest
        assert np.isclose(movement.reach[group], largest, rtol=1e-5)


def test_the_same_centers_are_the_same_stage():
    centers = Centers(np.random.default_rng(0).normal(size=(40, 7)), EUCLIDEAN)
    course = Course(centers, np.float64)
    stage = course.stage(centers)
    assert course.stage(centers) is stage
    assert course.stage(Centers(centers.values.copy(), EUCLIDEAN)) is stage
    assert course.stage(Centers(centers.values + 1, EUCLIDEAN)) is not stage


def test_directions_of_zero_centers_cannot_be_grouped():
    values = np.eye(40)
    assert can_group(Centers(values, Distance.COSINE))
    values[3] = 0
    assert not can_group(Centers(values, Distance.COSINE))
    assert can_group(Centers(values, EUCLIDEAN))
