"""k-means for data that does not fit on one machine, on Dask.

`KMeans` has the methods and arguments of TensorFlow's estimator
`tf.compat.v1.estimator.experimental.KMeans`. Other public names are in `dkmeans.hooks`,
`dkmeans.feature_columns` and `dkmeans.exports`. A first model::

    model = dkmeans.KMeans(num_clusters=8, model_dir="model", use_mini_batch=False)
    model.train(lambda: dkmeans.Dataset.from_zarr("rows.zarr"), steps=10)
    centers = model.cluster_centers()

`load` returns the estimator of a model that is trained already, and `sweep` trains models of
several numbers of clusters together. A name is imported when it is first used: `import dkmeans`
alone imports neither NumPy nor Dask.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dkmeans import exports, feature_columns, hooks
    from dkmeans.config import RunConfig
    from dkmeans.data.dataset import Dataset, limit_epochs
    from dkmeans.errors import (
        Conflict,
        Invalid,
        InvalidCheckpoint,
        InvalidData,
        InvalidType,
        Outage,
    )
    from dkmeans.estimator import KMeans, load
    from dkmeans.modes import EstimatorSpec, ModeKeys
    from dkmeans.report_page import write_report
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
    "exports",
    "feature_columns",
    "hooks",
    "limit_epochs",
    "load",
    "sweep",
    "write_report",
]
__version__ = "0.1.0"

# Modules of the public names; None: the name is that of a package.
_MODULES = {
    "Conflict": "dkmeans.errors",
    "Dataset": "dkmeans.data.dataset",
    "EstimatorSpec": "dkmeans.modes",
    "Invalid": "dkmeans.errors",
    "InvalidCheckpoint": "dkmeans.errors",
    "InvalidData": "dkmeans.errors",
    "InvalidType": "dkmeans.errors",
    "KMeans": "dkmeans.estimator",
    "ModeKeys": "dkmeans.modes",
    "Outage": "dkmeans.errors",
    "RunConfig": "dkmeans.config",
    "exports": None,
    "feature_columns": None,
    "hooks": None,
    "limit_epochs": "dkmeans.data.dataset",
    "load": "dkmeans.estimator",
    "sweep": "dkmeans.sweeping",
    "write_report": "dkmeans.report_page",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULES[name]
    if module is None:
        return import_module(f"{__name__}.{name}")
    value = globals()[name] = getattr(import_module(module), name)
    return value


def __dir__() -> list[str]:
    """Return the public names, also those that are not imported yet."""
    return sorted({*globals(), *__all__})
