"""Exports of a model: TensorFlow's SavedModel, ONNX, and a fitted scikit-learn estimator.

`dkmeans.model` calls this package. An export is made of a checkpoint's centers, distance, scaling
and names of columns. It gives the clusters that `predict` gives, and the distances too, except that
those of scikit-learn are not squared. Each format needs libraries of its own, so its module is
imported only where it is used.
"""

from dkmeans.exports.receivers import ServingInputReceiver, as_receiver

__all__ = ["ServingInputReceiver", "as_receiver"]
