"""Export to scikit-learn: a fitted estimator of scikit-learn with a model's centers.

`Model.to_sklearn` calls `model`. The estimator does not need dkmeans.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from dkmeans.checkpoints import Checkpoint
from dkmeans.distance import Distance, directions


def model(checkpoint: Checkpoint) -> Any:
    """Return a fitted `KMeans`; for the cosine distance, a pipeline of a `Normalizer` and one.

    The estimator has no `labels_`: a checkpoint does not hold the clusters of the training rows. It
    has `inertia_` only where the loss of the checkpoint is that of its centers.
    """
    centers = checkpoint.state.centers
    if checkpoint.settings.distance_metric is not Distance.COSINE:
        return _named(_fitted(centers, checkpoint), checkpoint)
    # Between rows of length one, the nearest center by Euclidean distance is the nearest by cosine.
    units = directions(centers).astype(centers.dtype)
    # Only the first step sees the names: it passes an array on.
    return make_pipeline(_named(Normalizer().fit(units), checkpoint), _fitted(units, checkpoint))


def _fitted(centers: Any, checkpoint: Checkpoint) -> Any:
    # A fit of one row sets all private attributes that the installed scikit-learn expects.
    estimator = KMeans(1, n_init=1, max_iter=1).fit(centers[:1])
    estimator.set_params(n_clusters=len(centers), n_init="auto", max_iter=300)
    estimator.cluster_centers_ = centers.copy()
    estimator._n_features_out = len(centers)  # number of names in get_feature_names_out()
    estimator.n_iter_ = checkpoint.state.step
    del estimator.labels_, estimator.inertia_
    # The loss of a step is that of the centers before it. A cosine loss is another sum.
    if checkpoint.is_settled and checkpoint.settings.distance_metric is not Distance.COSINE:
        estimator.inertia_ = checkpoint.state.inertia
    return estimator


def _named(estimator: Any, checkpoint: Checkpoint) -> Any:
    """Set the names by which scikit-learn compares the columns of data frames."""
    columns = checkpoint.settings.columns
    # A column of several values in a row has no names for each of them.
    if columns is not None and len(columns) == checkpoint.state.centers.shape[1]:
        estimator.feature_names_in_ = np.array(columns, object)
    return estimator
