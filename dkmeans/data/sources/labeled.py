"""Arrays with labels, of xarray: the arrays below them, and the names of their columns.

`frames` takes a 2-D `DataArray` as a table, and `input_fn` takes a `Dataset` as a dict of its
variables. xarray is not imported: a process that has not imported it has none of its arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dkmeans.data.columns import Names
from dkmeans.errors import InvalidData
from dkmeans.extras import is_of


def is_data_array(given: Any) -> bool:
    """Return whether an object is a `DataArray` of xarray."""
    return is_of(given, "xarray", "DataArray")


def is_labeled_dataset(given: Any) -> bool:
    """Return whether an object is a `Dataset` of xarray."""
    return is_of(given, "xarray", "Dataset")


def labels_of(array: Any) -> Names:
    """Return the labels of the columns of a 2-D array; None if it has none that are all words."""
    if array.ndim != 2 or array.dims[1] not in array.coords:
        return None
    labels = tuple(array.coords[array.dims[1]].to_numpy().tolist())
    return labels if labels and all(isinstance(label, str) for label in labels) else None


def selected(array: Any, columns: Names) -> Any:
    """Return the values of an array, a NumPy or Dask array; only those of some columns by name."""
    if columns is not None:
        array = array.sel({array.dims[1]: list(columns)})
    return array.data


def variables_of(dataset: Any, keys: Sequence[str], name: str) -> dict[str, Any]:
    """Return some variables of a dataset of xarray as 1-D arrays by name.

    Raises:
        InvalidData: the variables do not have one dimension, the same for all.
    """
    dims = {key: dataset[key].dims for key in keys}
    (first, *_) = dims.values()
    if others := {key: each for key, each in dims.items() if len(each) != 1 or each != first}:
        got = ", ".join(f"{key!r} ({', '.join(map(str, each))})" for key, each in others.items())
        raise InvalidData(
            f"the variables of {name} must have one dimension, that of {keys[0]!r} "
            f"({', '.join(map(str, first))}), got {got}; name the variables to use"
        )
    return {key: dataset[key].data for key in keys}
