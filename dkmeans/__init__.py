"""k-means for data that does not fit on one machine, on Dask.

`KMeans` has the methods and arguments of TensorFlow's estimator
`tf.compat.v1.estimator.experimental.KMeans`. Other public names are in `dkmeans.hooks`,
`dkmeans.feature_columns` and `dkmeans.exports`.

    model = dkmeans.KMeans(num_clusters=8, model_dir="model", use_mini_batch=False)
    model.train(lambda: dkmeans.Dataset.from_zarr("rows.zarr"), steps=10)
    centers = model.cluster_centers()

`load` returns the estimator of a model that is trained already. `sweep` trains models of several
numbers of clusters together, and recommends one.
"""

from dkmeans.config import RunConfig
from dkmeans.data.dataset import Dataset, limit_epochs
from dkmeans.errors import Conflict, Invalid, InvalidCheckpoint, InvalidData, InvalidType, Outage
from dkmeans.estimator import KMeans, load
from dkmeans.modes import EstimatorSpec, ModeKeys
from dkmeans.sweeping import sweep

__all__ = [
    "Conflict",
    "Dataset",
    "EstimatorSpec",
    "Invalid",
    "InvalidCheckpoint",
    "InvalidData",
    "InvalidType",
    "KMeans",
    "ModeKeys",
    "Outage",
    "RunConfig",
    "limit_epochs",
    "load",
    "sweep",
]
__version__ = "0.1.0"
