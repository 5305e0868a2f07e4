"""Rows, places and readers that the tests of all sources share."""

import numpy as np
import pytest

ROWS = np.random.default_rng(7).normal(size=(50, 4)).astype(np.float32)
PLACES = ["disk", "file URL", "memory", "S3"]
# Runs a test once for each place. The fixture `address` is an unused address there.
everywhere = pytest.mark.parametrize("address", PLACES, indirect=True)


def chunks_of(dataset):
    """Return all chunks of all batches."""
    return [chunk for batch in dataset.batches() for chunk in batch]


def loaded(dataset):
    """Return the rows of all batches."""
    return np.vstack([chunk.load(dataset.width) for chunk in chunks_of(dataset)])


def loaded_batch(batch):
    """Return the rows of a batch."""
    return np.vstack([chunk.load(batch.source.width) for chunk in batch])
