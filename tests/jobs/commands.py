"""Command lines that the jobs' tests run."""

import sys

# The command as a process of its own.
COMMAND = [sys.executable, "-m", "dkmeans_jobs"]


def train(store, model, *more):
    """Return the arguments of a small training job."""
    return ["train", store, "--num-clusters", 4, "--model-dir", model, "--seed", 3, *more]
