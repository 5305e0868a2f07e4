"""First centers of small fits, read from the opening checkpoint before anything moves them."""

from uuid import uuid4

import numpy as np

from dkmeans import KMeans
from tests.reference import EUCLIDEAN

PLUS_PLUS = "kmeans_plus_plus"
NAMES = ("random", PLUS_PLUS)


def rows_of(n, d=2, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)).astype(dtype)


def model(k, source, metric=EUCLIDEAN, seed=0, **more):
    return KMeans(k, f"memory://{uuid4().hex}", source, metric, seed, **more)


def first_centers(k, source, data, metric=EUCLIDEAN, seed=0, **more):
    """Return the centers after initialization; the fit stops within its first iteration."""
    estimator = model(k, source, metric, seed, mini_batch_steps_per_iteration=10**6, **more)
    estimator.train(lambda: iter(data) if isinstance(data, list) else data, steps=1)
    return estimator.cluster_centers()


def rows_in(centers, rows):
    """Return the row numbers of centers that are rows."""
    table = {tuple(row): number for number, row in reversed(list(enumerate(rows.tolist())))}
    return [table[tuple(center)] for center in centers.tolist()]
