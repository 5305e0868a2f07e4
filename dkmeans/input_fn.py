"""Input functions: call an `input_fn`, and turn its result into a `Dataset`.

All methods of the estimator that need rows call `read_input`. An `input_fn` may return an array, a
dict of columns, a Zarr group of them, a data frame, a `Dataset`, or an iterator of batches, each
also as `(features, None)` or, except a `Dataset`, as `(features, {"weights": w})`. For prediction,
labels and weights are ignored. Columns are placed side by side: for a new model in the order of
their names, those of a data frame in its own order, or as a layout of feature columns requires.
They may be chunked differently.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from math import prod
from typing import Any
from uuid import uuid4

import numpy as np
import zarr

from dkmeans.data.arrays import column_chunks, cut_of, weight_chunks
from dkmeans.data.batches import Batch, Cut
from dkmeans.data.columns import ANY, KnownColumns, Names, described
from dkmeans.data.columns_side_by_side import side_by_side
from dkmeans.data.dataset import Dataset, cut_weighted
from dkmeans.data.points import as_array
from dkmeans.data.reading import CutOnce
from dkmeans.data.row_weights import begin_call, weighted
from dkmeans.data.sources.arrow_dataset import is_arrow_dataset
from dkmeans.data.sources.arrow_values import hold_no_numbers
from dkmeans.data.sources.dask_array import is_dask_array
from dkmeans.data.sources.frames import arrays_of, is_frame, names_of, rows_of
from dkmeans.data.sources.labeled import is_labeled_dataset, variables_of
from dkmeans.data.sources.memory import lent
from dkmeans.data.views import Columns
from dkmeans.errors import NO_BATCHES, Invalid, InvalidData, InvalidType, NoRows, expected
from dkmeans.feature_columns.layout import FeatureRows, Layout, rows_of_named_columns
from dkmeans.modes import ModeKeys

InputFn = Callable[..., Any]


def read_input(
    input_fn: InputFn,
    mode: str,
    params: dict[str, Any],
    config: Any,
    layout: Layout | None = None,
    columns: KnownColumns = ANY,
) -> Dataset:
    """Call an `input_fn`, and return its result as a dataset.

    Args:
        input_fn: The function. It may have parameters named `mode`, `params` and `config`.
        mode: Purpose of the rows, one of `ModeKeys`. For training, arrays and untouched datasets
            (`Dataset.is_table`) repeat without end; otherwise they are one epoch.
        params: Argument for `input_fn`.
        config: Argument for `input_fn`.
        layout: Layout of the feature columns; None: the result itself holds the rows.
        columns: Columns of the model, which are put into the model's order by name. Those that
            feature columns read are found by their keys.

    Raises:
        TypeError: it is not a function, has other parameters, or returns an unusable type.
        ValueError: its rows cannot be used, or lack columns of the model, or have labels and the
            mode is not prediction.
    """
    begin_call()
    if not callable(input_fn):
        raise InvalidType(expected("input_fn", "a function (lambda: rows)", input_fn))
    supplied = {"mode": mode, "params": params, "config": config}
    try:
        parameters = list(inspect.signature(input_fn).parameters.values())
    except ValueError:  # some builtins have no signature
        parameters = []
    # Kinds 2 and 4 are *args and **kwargs, which need no value.
    required = [p for p in parameters if p.default is p.empty and p.kind not in (2, 4)]
    # Those of kind 0 are positional only: they have no name to callers.
    unknown = [p.name for p in required if p.name not in supplied or p.kind == 0]
    if unknown:
        raise InvalidType(
            f"input_fn must take no parameters but mode, params and config, got {unknown}"
        )
    # The signature of a partial still lists its bound keywords; they must not be overridden.
    bound = input_fn.keywords if isinstance(input_fn, partial) else {}
    names = {p.name for p in parameters if p.kind not in (0, 2)} - set(bound)
    returned = input_fn(**{name: value for name, value in supplied.items() if name in names})
    given, weights = _features_and_weights(returned, mode)
    dataset = _dataset_of(given, weights, mode, layout, columns)
    return dataset.without_weights() if mode == ModeKeys.PREDICT else dataset


def _dataset_of(
    given: Any,
    weights: Any,
    mode: str,
    layout: Layout | None,
    columns: KnownColumns,
) -> Dataset:
    """Return the features that an `input_fn` has returned as a dataset, with their weights."""
    if isinstance(given, zarr.Group):
        given = dict(given.arrays())
    if is_arrow_dataset(given):
        given = Dataset.from_arrow(given)
    if isinstance(given, Dataset):
        if weights is not None:
            raise Invalid(
                "the weights of a Dataset must be given where it is made, as in "
                "Dataset.from_array(rows, weights=w)"
            )
        dataset = given.repeat() if mode == ModeKeys.TRAIN and given.is_table else given
        if layout is None:
            return in_order(dataset, columns)
        dataset = dataset.read_as(layout.width, partial(rows_of_named_columns, layout))
        return dataset.named(layout.names)
    has_names = isinstance(given, Mapping) or is_frame(given)
    if has_names or _is_array(given):
        has_weights = weights is not None
        # `uuid4` is a new name for every call: another call may return other values in the same
        # columns.
        cut, found = _features(given, "the features", layout, columns, has_weights, uuid4().hex)
        if weights is not None:
            of_weights = partial(weight_chunks, weights, "the weights")
            cut = partial(cut_weighted, cut, of_weights, "the features")
        dataset = replace(
            Dataset.of_table(cut, "the features").named(found), table=given if has_names else None
        )
        return dataset.repeat() if mode == ModeKeys.TRAIN else dataset
    if isinstance(given, Iterable) and not isinstance(given, str | bytes):
        return _from_iterator(iter(given), mode, layout, columns)
    raise InvalidType(
        "input_fn must return an array, a dict of arrays, a data frame, a Dataset or an iterator "
        f"of batches, got {type(given).__name__}"
    )


def _features_and_weights(given: Any, mode: str) -> tuple[Any, Any]:
    """Return the features of `(features, labels)`, and the weights in the labels; None if none.

    An argument that is not a tuple is the features.

    Raises:
        InvalidType: the tuple has another size.
        Invalid: there are other labels than weights, and the mode is not prediction.
    """
    if not isinstance(given, tuple):
        return given, None
    if len(given) != 2:
        raise InvalidType(
            f"input_fn must return features or (features, None), got a tuple of {len(given)}"
        )
    features, labels = given
    if labels is None or mode == ModeKeys.PREDICT:
        return features, None
    if not isinstance(labels, Mapping) or list(labels) != ["weights"]:
        raise Invalid(
            'labels must be None, or {"weights": w} for weights of the rows: clustering uses no '
            "labels, got some beside the features"
        )
    return features, labels["weights"]


def _is_array(given: Any) -> bool:
    """Return whether the value is an array or can be converted to one, as a tensor can."""
    is_known = isinstance(given, zarr.Array | np.ndarray)
    # Sparse matrices (`toarray`) can be iterated, but are no iterators of batches.
    return is_known or hasattr(given, "__array__") or hasattr(given, "toarray")


def _from_iterator(
    items: Iterator[Any], mode: str, layout: Layout | None, columns: KnownColumns
) -> Dataset:
    """Return a dataset of an iterator's batches. Empty batches are skipped.

    The first batch is read now, because the dataset needs its number of columns.
    """
    names: Names = None

    def batches() -> Iterator[Batch]:
        nonlocal names
        for number, item in enumerate(items):
            features, weights = _features_and_weights(item, mode)
            name = f"batch {number}"
            if isinstance(features, list | float | int):
                raise InvalidType(
                    f"{name} must be an array of rows, got {type(features).__name__}: a list of "
                    "rows is taken for one of batches; return np.array(rows)"
                )
            known, has_weights = columns.or_those_of(names), weights is not None
            cut, found = _features(features, name, layout, known, has_weights)
            batch = cut(None)
            batch = Batch.of(*batch.parts)
            if weights is not None:
                of_weights = weight_chunks(weights, f"the weights of {name}")
                batch = weighted(batch, of_weights, name)
            if batch.rows:
                names = names or found
                yield lent(batch)

    stream = batches()
    first = next(stream, None)
    if first is None:
        raise NoRows(NO_BATCHES)
    return Dataset.of_batches(first.source.width, chain([first], stream)).named(names)


def _names(given: Any) -> Names:
    """Return the names of the columns of features; None if they have none."""
    if isinstance(given, Mapping):
        return tuple(sorted(given)) if all(isinstance(key, str) for key in given) else None
    return names_of(given)


def in_order(dataset: Dataset, columns: KnownColumns) -> Dataset:
    """Return a dataset with the columns of a model, by name and in the model's order.

    Raises:
        InvalidData: a column is missing, or the model lacks one and `columns` allows no surplus.
    """
    given = dataset.columns
    if given is not None:
        asked = columns.names or ()
        given = (*given, *(name for name in dataset.by_name if name in asked))
    chosen = columns.chosen(given, "the dataset")
    if chosen is None or (chosen == dataset.columns and not columns.allows_surplus):
        return dataset
    return dataset.select(chosen)


def _features(
    given: Any,
    name: str,
    layout: Layout | None,
    columns: KnownColumns,
    has_weights: bool,
    table: str | None = None,
) -> tuple[Cut, Names]:
    """Return a function that cuts an array, or columns side by side, and the columns' names.

    The columns of a new model are those of a dict, sorted by name, or of a data frame, in order.
    `table` is a unique name in cache keys; None for a batch, which is read once.
    """
    if layout is not None:
        read = partial(FeatureRows, layout=layout, table=table)
        # Chunks have the usual size, whatever is asked: these rows are larger than the columns.
        batch = side_by_side(_named(given, name, layout), name, read)
        return lambda _: batch, layout.names
    names = columns.chosen(_names(given), name)
    if is_frame(given):
        rows, names = rows_of(given, name, names, has_weights=has_weights)
        return cut_of(rows, name), names
    if not isinstance(given, Mapping):
        return cut_of(given, name), None
    if not given:
        raise InvalidData(f"{name} must have at least one column, got an empty dict")
    try:
        keys = sorted(given) if names is None else names
    except TypeError as error:
        must = "of one type, as columns stand in their order"
        raise InvalidType(expected(f"the names in {name}", must, list(given))) from error
    if is_labeled_dataset(given):
        given = variables_of(given, keys, name)
    cuts = [CutOnce(partial(column_chunks, given[key], f"{name}[{key!r}]")) for key in keys]
    parts = [cut(None) for cut in cuts]
    kinds = [(key, part.source.dtype) for key, part in zip(keys, parts, strict=True) if part.rows]
    if others := [each for each in kinds if np.dtype(each[1]).kind not in "fiub"]:
        raise hold_no_numbers(others, name)
    widths = [part.source.width if part.rows else 1 for part in parts]
    names = described(keys, widths) if all(isinstance(key, str) for key in keys) else None
    return partial(_cut_columns, cuts, name), names


def _cut_columns(cuts: Sequence[Cut], name: str, chunk_bytes: int | None) -> Batch:
    """Return the chunks of columns side by side."""
    # A joined chunk holds a chunk of each column.
    each = None if chunk_bytes is None else max(1, chunk_bytes // len(cuts))
    return side_by_side([cut(each) for cut in cuts], name, Columns)


def _named(given: Any, name: str, layout: Layout) -> list[Batch]:
    """Return the columns that a layout reads, in the order of its keys."""
    if is_frame(given):
        layout.check_keys(names_of(given) or (), name)
        given = arrays_of(given, layout.keys, name)
    if not isinstance(given, Mapping):
        must = "a dict of columns, a data frame, or a Dataset.from_parquet, for feature_columns"
        raise InvalidType(f"{name} must be {must} to read, got {type(given).__name__}")
    layout.check_keys(given, name)
    names = {key: f"{name}[{key!r}]" for key in layout.keys}
    columns = [column_chunks(_flat(given[key], names[key]), names[key]) for key in layout.keys]
    for key, column in zip(layout.keys, columns, strict=True):
        if column.rows:
            layout.check_value_width(key, column.source.width, names[key])
    return columns


def _flat(values: Any, name: str) -> Any:
    """Return the values with all dimensions but the first flattened into one.

    A numeric column may have rows of any shape. Zarr arrays are returned unchanged.

    Raises:
        InvalidData: a Zarr array has more than two dimensions.
    """
    if isinstance(values, zarr.Array):
        if values.ndim > 2:
            raise InvalidData(f"{name} must be 1-D or 2-D in Zarr, got shape {values.shape}")
        return values
    if not is_dask_array(values):
        values = as_array(values, name)
    return values if values.ndim < 3 else values.reshape(len(values), prod(values.shape[1:]))
