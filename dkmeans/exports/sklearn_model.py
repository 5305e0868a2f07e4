"""scikit-learn's own estimators, fitted."""

from __future__ import annotations

from typing import Any

from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from dkmeans.checkpoints import Checkpoint
from dkmeans.distance import Distance, directions


def model(checkpoint: Checkpoint) -> Any:
    """A `KMeans` with the model's centers, or for cosine one behind a `Normalizer`.

    It has no `labels_`: which rows it was trained on is not in a checkpoint.
    """
    centers = checkpoint.state.centers
    if checkpoint.settings.distance_metric is not Distance.COSINE:
        return _fitted(centers, checkpoint)
    units = directions(centers).astype(centers.dtype)
    return make_pipeline(Normalizer().fit(units), _fitted(units, checkpoint))


def _fitted(centers: Any, checkpoint: Checkpoint) -> Any:
    # Fitted to one row, in no time, it has whatever its version of scikit-learn looks for.
    found = KMeans(1, n_init=1, max_iter=1).fit(centers[:1])
    found.set_params(n_clusters=len(centers), n_init="auto", max_iter=300)
    found.cluster_centers_ = centers.copy()
    found._n_features_out = len(centers)  # how many names its distances have
    found.n_iter_, found.inertia_ = checkpoint.state.step, checkpoint.state.inertia
    del found.labels_
    return found
