"""Models for those without dkmeans: a SavedModel of TensorFlow, ONNX, and scikit-learn's own.

Each is made of centers and a distance alone, and answers as `predict` does.
"""

from dkmeans.exports.extras import needs
from dkmeans.exports.receivers import ServingInputReceiver, as_receiver

__all__ = ["ServingInputReceiver", "as_receiver", "needs"]
