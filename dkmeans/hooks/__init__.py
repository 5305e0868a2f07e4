"""Hooks: to be told of a call's steps and checkpoints, to look at values, and to stop it."""

from dkmeans.hooks.recording import HistoryHook, LoggingTensorHook, PrometheusHook
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
