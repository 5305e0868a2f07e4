"""The plan of a call: its limits, as messages name them, and the rules of its centers."""

import pytest

from dkmeans import RunConfig
from dkmeans.checkpoints import Settings
from dkmeans.distance import Computation, Distance
from dkmeans.initialization import RANDOM, Initialization, Rounds
from dkmeans.training_plan import Plan


def plan(last_step=None, tolerance=None, steps=1):
    settings = Settings(Distance.COSINE, True, steps)
    computation = Computation(Distance.COSINE, "numpy")
    initialization = Initialization(RANDOM, 4, computation, 2, 7, Rounds(1.0, 3), None)
    return Plan("m", settings, initialization, last_step, tolerance, RunConfig())


@pytest.mark.parametrize(
    ("limits", "described"),
    [
        ({}, ""),
        ({"last_step": 7}, "step 7"),
        ({"last_step": 7, "tolerance": 1e-4}, "step 7 or relative_tolerance 0.0001"),
    ],
)
def test_the_limits_of_a_call_are_described(limits, described):
    assert plan(**limits).describe_limits() == described


def test_centers_follow_the_models_distance_and_schedule():
    rules = plan(steps=3).rules
    assert rules.computation.distance is Distance.COSINE
    assert rules.schedule == plan(steps=3).settings.schedule
