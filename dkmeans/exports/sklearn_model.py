"""Export to scikit-learn: a fitted estimator of scikit-learn with a model's centers.

`Model.to_sklearn` calls `model`. The estimator does not need dkmeans.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from dkmeans.checkpoints import Checkpoint
from dkmeans.distance import Distance, directions
from dkmeans.scaling import Scaling


def model(checkpoint: Checkpoint) -> Any:
    """Return a fitted `KMeans`, or a pipeline whose last step is one.

    The steps before are a `StandardScaler` where the model standardizes rows, and a `Normalizer`
    for the cosine distance.

    The estimator has no `labels_`: a checkpoint does not hold the clusters of the training rows. It
    has `inertia_` only where the loss of the checkpoint is that of its centers.
    """
    steps = list(_steps(checkpoint))
    # Only the first step sees the names: it passes an array on.
    _name(steps[0], checkpoint)
    return make_pipeline(*steps) if len(steps) > 1 else steps[0]


def is_export(beginning: bytes) -> bool:
    """Return whether a file that begins with these bytes is an estimator of scikit-learn."""
    # joblib writes a pickle: first its protocol, then the module of the first object.
    return beginning.startswith(b"\x80") and b"sklearn." in beginning


def _steps(checkpoint: Checkpoint) -> Iterator[Any]:
    """Yield the fitted estimators that rows go through."""
    centers, scaling = checkpoint.state.centers, checkpoint.settings.scaling
    if scaling is not None:
        yield _scaler(scaling, centers)
    if checkpoint.settings.distance_metric is Distance.COSINE:
        # Between rows of length one, the nearest center by Euclidean distance is the nearest by
        # cosine.
        centers = directions(centers).astype(centers.dtype)
        yield Normalizer().fit(centers)
    yield _fitted(centers, checkpoint)


def _scaler(scaling: Scaling, centers: Any) -> StandardScaler:
    scaler = StandardScaler().fit(centers)
    scaler.mean_, scaler.scale_ = scaling.means.copy(), scaling.deviations.copy()
    scaler.var_ = np.square(scaling.deviations)
    del scaler.n_samples_seen_  # the number of rows is not kept
    return scaler


def _fitted(centers: Any, checkpoint: Checkpoint) -> Any:
    # A fit of one row sets all private attributes that the installed scikit-learn expects.
    estimator = KMeans(1, n_init=1, max_iter=1).fit(centers[:1])
    estimator.set_params(n_clusters=len(centers), n_init="auto", max_iter=300)
    estimator.cluster_centers_ = centers.copy()
    estimator._n_features_out = len(centers)  # number of names in get_feature_names_out()
    estimator.n_iter_ = checkpoint.state.step
    del estimator.labels_, estimator.inertia_
    # The loss of a step is that of the centers before it. A cosine loss is another sum.
    if checkpoint.is_unchanged and checkpoint.settings.distance_metric is not Distance.COSINE:
        estimator.inertia_ = checkpoint.state.inertia
    return estimator


def _name(estimator: Any, checkpoint: Checkpoint) -> None:
    """Set the names by which scikit-learn compares the columns of data frames."""
    columns = checkpoint.settings.columns
    # A column of several values in a row has no names for each of them.
    if columns is not None and len(columns) == checkpoint.state.centers.shape[1]:
        estimator.feature_names_in_ = np.array(columns, object)
