"""Code of a model in MLflow: assigns rows to their nearest centers with NumPy alone.

`dkmeans.mlflow` saves this file beside the centers. MLflow runs the copy where the model is loaded,
without dkmeans and without a cluster. So this file imports nothing of dkmeans.
"""

from __future__ import annotations

from typing import Any

import mlflow
import numpy as np
import pandas as pd  # MLflow makes a data frame of any rows

# Rows with a squared length below this are divided by its root instead, as in training.
_SMALLEST_SQUARED_NORM = 1e-12
# Elements of the scores of a block of rows: 32 MB.
_BLOCK_ELEMENTS = 2**22
# Twice the relative error of a product of d columns is (d + 4) times this; 1.02 covers the rounding
# of the bound itself.
_ERROR = 1.02 * 2 * float(np.finfo(np.float64).eps)


class NearestCenter(mlflow.pyfunc.PythonModel):
    """Model that returns the index of the nearest center of each row."""

    def load_context(self, context: Any) -> None:
        """Load the centers."""
        with np.load(context.artifacts["centers"]) as saved:
            self._cosine, centers = bool(saved["cosine"]), saved["centers"]
            self._means, self._deviations = saved["means"], saved["deviations"]
        self._dtype = centers.dtype
        self._centers = _comparable(centers, self._cosine)
        # Without the shift, an offset that all rows share would make all rounding errors large.
        self._shift = 0.0 if self._cosine else self._centers.mean(axis=0)
        self._shifted = self._centers - self._shift
        squares = _squared_norms(self._shifted)
        self._halves = 0.0 if self._cosine else squares / 2
        self._largest = np.sqrt(squares.max())

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:
        """Return the cluster index of each of the (n, d) rows, (n,) int64.

        Raises:
            ValueError: the rows are no numbers, have another number of columns, or are not finite.
        """
        kinds = {getattr(dtype, "kind", "O") for dtype in pd.DataFrame(model_input).dtypes}
        if not kinds <= set("fiub"):
            raise ValueError("the columns of rows must be numbers")
        rows = np.asarray(model_input, np.float64)
        k, width = self._centers.shape
        if rows.ndim != 2 or rows.shape[1] != width:
            raise ValueError(f"rows must have the shape (n, {width}), got {rows.shape}")
        # Rounded as in training, and standardized if the model does that.
        rows = ((rows - self._means) / self._deviations).astype(self._dtype)
        wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(wrong):
            raise ValueError(f"rows must be finite; row {wrong[0]} is not")
        step = max(1, _BLOCK_ELEMENTS // k)
        blocks = (rows[start : start + step] for start in range(0, len(rows), step))
        found = [self._nearest(_comparable(block, self._cosine)) for block in blocks]
        return np.concatenate([np.empty(0, np.int64), *found])

    def _nearest(self, rows: Any) -> Any:
        """Return the index of each row's nearest center; the lowest one among equals.

        The least score |c|^2 / 2 - x.c decides where it is least by more than the rounding error.
        The other rows are decided by their distances.
        """
        shifted = rows - self._shift
        scores = self._halves - shifted @ self._shifted.T
        index = scores.argmin(axis=1)
        error = _ERROR * (rows.shape[1] + 4)
        lengths = np.sqrt(_squared_norms(shifted)) + self._largest
        limits = scores.min(axis=1) + error * lengths**2
        ambiguous = np.flatnonzero((scores <= limits[:, None]).sum(axis=1) > 1)
        for row in ambiguous:
            index[row] = self._distances(rows[row]).argmin()
        return index

    def _distances(self, row: Any) -> Any:
        if self._cosine:
            return np.clip(1.0 - np.add.reduce(self._centers * row, axis=1), 0.0, 2.0)
        return _squared_norms(self._centers - row)


def _comparable(rows: Any, cosine: bool) -> Any:
    """Return rows or centers in float64; of length one for the cosine distance."""
    rows = rows.astype(np.float64)
    if not cosine:
        return rows
    squares = np.maximum(_squared_norms(rows), _SMALLEST_SQUARED_NORM)
    return rows * (1.0 / np.sqrt(squares))[:, None]


def _squared_norms(rows: Any) -> Any:
    return np.add.reduce(np.square(rows), axis=1)


mlflow.models.set_model(NearestCenter())
