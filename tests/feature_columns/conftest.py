"""Rows that TensorFlow made of feature columns."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def recorded():
    """Features, and the rows that TensorFlow 2.21 made of them."""
    with np.load(Path(__file__).parent / "tensorflow.npz") as data:
        return {name: data[name] for name in data.files}
