"""Exports of a model: TensorFlow's SavedModel, ONNX, and a fitted scikit-learn estimator.

`dkmeans.model` calls this package. An export is made of a checkpoint's centers and distance alone,
and gives the clusters and distances that `predict` gives. Each format needs libraries of its own,
so its module is imported only where it is used.
"""

from dkmeans.exports.extras import needs
from dkmeans.exports.receivers import ServingInputReceiver, as_receiver

__all__ = ["ServingInputReceiver", "as_receiver", "needs"]
