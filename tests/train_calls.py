"""Give the tests of `train` rows, batches, modes, and models in memory."""

import logging
from uuid import uuid4

import numpy as np

from dkmeans import KMeans

MODES = {
    "full batch": {"use_mini_batch": False},
    "mini-batch": {"mini_batch_steps_per_iteration": 1},
    "three steps": {"mini_batch_steps_per_iteration": 3},
}
FULL = MODES["full batch"]


def rows_of(n=40, d=3, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(dtype)


def batches_of(number=10, **more):
    return [rows_of(seed=seed, **more) for seed in range(number)]


def model(model_dir=None, k=4, **more):
    more.setdefault("initial_clusters", rows_of(k, seed=99))
    return KMeans(k, model_dir or f"memory://{uuid4().hex}", **more)


def step_of(estimator):
    return int(estimator.get_variable_value("global_step"))


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
