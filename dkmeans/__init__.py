"""k-means for data that does not fit on one machine, on Dask."""

from dkmeans.config import RunConfig
from dkmeans.data.dataset import Dataset, limit_epochs
from dkmeans.errors import Conflict, Invalid, InvalidCheckpoint, InvalidData, InvalidType, Outage
from dkmeans.estimator import KMeans
from dkmeans.modes import EstimatorSpec, ModeKeys

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
]
__version__ = "0.1.0"
