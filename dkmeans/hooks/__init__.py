"""Hooks: user code that is called around each step and each checkpoint, and may stop a call.

The user passes hooks to `train`, `evaluate` and `predict`, and listeners to `train`. `sessions` has
the base classes, under TensorFlow's names. `recording`, `prometheus`, `stopping` and `summaries`
have hooks that are ready to use. `notifier` calls the hooks of one call; only the library uses it.
Hooks observe and stop; they cannot change the model (docs/decisions/011).
"""

from dkmeans.hooks.prometheus import MetricsServerHook, PrometheusHook
from dkmeans.hooks.recording import HistoryHook, LoggingTensorHook
from dkmeans.hooks.sessions import (
    CheckpointSaverListener,
    Coordinator,
    Session,
    SessionRunArgs,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
)
from dkmeans.hooks.stopping import StopAtStepHook, StopIfNoDecreaseHook
from dkmeans.hooks.summaries import SummarySaverHook

__all__ = [
    "CheckpointSaverListener",
    "Coordinator",
    "HistoryHook",
    "LoggingTensorHook",
    "MetricsServerHook",
    "PrometheusHook",
    "Session",
    "SessionRunArgs",
    "SessionRunContext",
    "SessionRunHook",
    "SessionRunValues",
    "StopAtStepHook",
    "StopIfNoDecreaseHook",
    "SummarySaverHook",
]
