"""Rows and models that the tests of exports share."""

import numpy as np

from dkmeans import Dataset, KMeans

K, WIDTH = 11, 7
TIED_ROWS = np.array([[-1.0], [1.5]])
KINDS = [
    (metric, dtype)
    for metric in ("squared_euclidean", "cosine")
    for dtype in ("float32", "float64")
]


def rows_of(dtype):
    rows = np.random.default_rng(5).normal(3, 1, (10_000, WIDTH))
    rows[17] = 0
    return rows.astype(dtype)


def trained(folder, metric="squared_euclidean", dtype="float32", **more):
    """Return a trained model. It standardizes rows of float64."""
    model = KMeans(K, str(folder), distance_metric=metric, seed=1, use_mini_batch=False, **more)
    rows = Dataset.from_array(rows_of(dtype))
    return model.train(lambda: rows.standardize() if dtype == "float64" else rows, steps=3)


def predicted(model, rows):
    return next(model.predict(lambda: rows, yield_single_examples=False))
