"""Datasets: the rows of a fit, and the batches in which a fit goes over them.

A user makes a `Dataset` from an array or files and adds the methods of tf.data to it. `training`
and `prediction` go over its batches. A dataset holds no rows, only a function from the number of an
epoch to the batches of that epoch. Each method wraps that function in another one. The estimator
decides how the underlying table is read (`Reading`), after the user has made the dataset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np

from dkmeans import pictures
from dkmeans.data.arrays import cut_of, weight_chunks
from dkmeans.data.batches import Batch, Cut
from dkmeans.data.chunks import GPU_TARGET_BYTES, TARGET_BYTES, chunk_bytes_for
from dkmeans.data.columns import NO_LISTS, Names, described
from dkmeans.data.epochs import changed, cut_anew, slice_rows
from dkmeans.data.mapped import mapped, row_function
from dkmeans.data.points import as_array
from dkmeans.data.reading import AS_IT_IS, Change, CutOnce, Reading, Select
from dkmeans.data.row_weights import weighted
from dkmeans.data.scaled import scaled
from dkmeans.data.shuffling import shuffled_epoch
from dkmeans.data.sources.arrow_dataset import from_arrow_dataset, is_arrow_dataset
from dkmeans.data.sources.frames import is_frame, names_of, rows_of
from dkmeans.data.sources.named_rows import NamedRows, refuse_others
from dkmeans.data.sources.npy import from_npy_file
from dkmeans.data.sources.parquet import from_parquet_files
from dkmeans.data.sources.row_filter import RowFilter
from dkmeans.data.sources.zarr_array import open_group
from dkmeans.data.stored_tables import (
    Addresses,
    cut_of_files,
    expand_store,
    expanded,
    group_rows,
    named_together,
    names_in,
    zarr_column,
    zarr_rows,
)
from dkmeans.errors import Invalid, InvalidType, NoRows, check_integer, counted, expected, readable
from dkmeans.scaling import Scaling

# Terms that rows must meet, or alternatives of them.
Filters = Sequence[tuple[str, str, Any]] | Sequence[list[tuple[str, str, Any]]]

# Batches with fewer chunks of another size than this are cut into chunks of the usual size.
_FEWEST_CHUNKS_OF_BATCH = 4
# Longer lists of names are cut where a dataset is printed.
_SHOWN_CHARACTERS = 80
# Size of a float32 value, of which rows usually consist.
_VALUE_BYTES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Batches of rows, with the methods of tf.data. Every method returns a new dataset.

    Rows of arrays and files are read only when a step needs them, by the worker that computes the
    step.

    A dataset without `batch`, `shuffle`, `repeat`, `take` or `skip` is a table, as an array is:
    `train` repeats it without end, and other calls go over it once. With any of them, a dataset is
    repeated only if `repeat` is among them. Without `batch` a dataset is one batch of all its rows,
    and full-batch training takes one step for each repetition. As in tf.data the order of the
    methods matters. `batch(r).repeat()` ends every epoch with a smaller batch if r does not divide
    the number of rows; `repeat().batch(r)` does not.

    Attributes:
        width: Number of columns.
        rows: Largest number of rows before the rows repeat; None if only reading can tell.
        columns: Names of the columns in their order, with the length of lists; None if the columns
            have no names.
        by_name: Names of further columns, which are read only where they are named.
        is_constant: True if every batch holds the same rows, so that full batch may end early.
        is_table: True unless `batch`, `shuffle`, `repeat`, `take` or `skip` was called.
        is_endless: True if the batches never end.
        table: Data frame, dict or group of Zarr from which `keep` may take more columns; None for
            another input.
    """

    width: int
    rows: int | None
    # Returns the batches of an epoch, given its number and how the table is read.
    _epochs: Callable[[int, Reading], Iterator[Batch]]
    # Number of rows in a batch; None before `batch`, 0 for batches of unknown sizes.
    _batch_rows: int | None = None
    is_constant: bool = False
    _is_shuffled: bool = False
    _is_repeated: bool = False
    is_table: bool = False
    is_endless: bool = False
    _has_weights: bool = False
    _is_mapped: bool = False
    # The epochs whose columns a new model standardizes by; None if it does not.
    _standardizing: Callable[[int, Reading], Iterator[Batch]] | None = None
    _reading: Reading = AS_IT_IS
    columns: tuple[str, ...] | None = None
    by_name: tuple[str, ...] = ()
    table: Any = None

    def __repr__(self) -> str:
        rows = "unknown rows" if self.rows is None else counted(self.rows, "row")
        names = f" ({', '.join(self.columns)})" if self.columns else ""
        shown = names if len(names) <= _SHOWN_CHARACTERS else f"{names[:_SHOWN_CHARACTERS]}...)"
        batches = f" in batches of {self._batch_rows:,}" if self._batch_rows else ""
        end = ", without end" if self.is_endless else ""
        scales = ", to standardize" if self.is_standardized else ""
        of_columns = f"{counted(self.width, 'column')}{shown}"
        return f"<Dataset: {rows} of {of_columns}{batches}{end}{scales}>"

    def _repr_html_(self) -> str:
        """Return what the dataset holds, with a picture of the chunks, for a notebook."""
        facts = {
            "rows": None if self.rows is None else f"{self.rows:,}",
            "columns": f"{self.width:,}",
            "names": None if self.columns is None else ", ".join(self.columns),
            "batches": f"{counted(self._batch_rows, 'row')} each" if self._batch_rows else None,
            "end": "none, it repeats" if self.is_endless else None,
        }
        # The batches of an iterator come only once: a picture must not consume one.
        first = Batch() if self.rows is None else next(self._epochs(0, AS_IT_IS), Batch())
        if self.rows is None or not first.rows:
            return pictures.table("Dataset", facts)
        with suppress(InvalidType):  # some columns hold words: which are chosen is not known yet
            chosen = next(self._epochs(0, self._reading))
            dtype = np.result_type(*{np.dtype(source.dtype) for source in chosen.sources()})
            size = readable(self.rows * self.width * dtype.itemsize)
            facts |= {"dtype": str(dtype), "bytes": size}
        sizes = first.sizes()
        least = f"{sizes.min():,} to " if sizes.min() < sizes.max() else ""
        about = f"{counted(len(sizes), 'chunk')} of {least}{counted(sizes.max(), 'row')}"
        about += " in the first batch" if self._batch_rows else ""
        return pictures.table("Dataset", facts, [pictures.chunks(about, sizes)])

    @classmethod
    def from_array(cls, array: Any, weights: Any = None) -> Dataset:
        """Return a dataset of the rows of a NumPy, Dask or Zarr array or a list of rows, (n, d).

        The array may be a data frame: its columns side by side, in order, with their names.

        Args:
            array: The rows.
            weights: Weights of the rows, (n,) finite numbers >= 0: a NumPy, Dask or Zarr array or a
                list; for a data frame also the name of one of its columns. None weighs each row
                one.

        Raises:
            ValueError: the array is not 2-D, or the weights are not one number for each row.
            TypeError: it is not an array, or a column of a data frame holds no numbers.
        """
        names: Names = None
        columns: Names = None
        if isinstance(weights, str):
            columns = _names_without(array, weights)
            weights, _ = rows_of(array, "the weights", (weights,))
        table = array if is_frame(array) else None
        if table is not None:
            has_weights = weights is not None
            array, names = rows_of(array, "the array", columns, has_weights=has_weights)
        rows = as_array(array, "the array") if isinstance(array, list) else array
        cut = cut_of(rows, "the array")
        if weights is not None:
            of_weights = partial(weight_chunks, weights, "the weights")
            cut = partial(cut_weighted, cut, of_weights, "the array")
        return replace(cls.of_table(cut).named(names), table=table)

    @classmethod
    def from_zarr(
        cls,
        address: Addresses,
        weights: Addresses | None = None,
        columns: Sequence[str] | None = None,
    ) -> Dataset:
        """Return a dataset of the rows of a stored Zarr array, (n, d), or of several.

        Args:
            address: Path or URL, as `store` or `store::array`; a pattern (`part-*.zarr`), or a list
                of them. The rows of several arrays follow one another. `store::a,b,c` puts arrays
                of a group side by side, (n,) or (n, w), with their names.
            weights: Path or URL in the same forms, of a Zarr array or several with the weights of
                the rows, (n,) finite numbers >= 0. None weighs each row one.
            columns: Names of arrays of the group at the address, `store` or `store::group`, to put
                side by side; None for an address of arrays.

        Raises:
            ValueError: there is no such array, or it is not 2-D, or arrays side by side are not
                equally long, or the weights are not one number for each row.
            Outage: the storage does not answer.
        """
        if columns is not None:
            _check_columns(columns, "a list of names, or None")
        cut = None
        if weights is not None:
            cut = cut_of_files(expanded(weights, expand_store), zarr_column)
        open_rows = zarr_rows if columns is None else partial(group_rows, columns=tuple(columns))
        addresses = expanded(address, expand_store)
        names = columns or names_in(addresses[0])
        dataset = cls._of_files(addresses, open_rows, cut)
        if not names:
            return dataset
        source = next(next(dataset.batches()).sources())
        table = None
        if len(addresses) == 1:  # columns to keep are those of one group
            table = open_group(addresses[0] if columns else addresses[0].partition("::")[0])
        widths = [part.source.width for part in source.parts]
        return replace(dataset.named(described(names, widths)), table=table)

    @classmethod
    def from_parquet(
        cls,
        address: Addresses,
        columns: Sequence[str] | None = None,
        weights: str | None = None,
        filters: Filters | None = None,
    ) -> Dataset:
        """Return a dataset of the rows of a Parquet file, or of all Parquet files below a folder.

        The files of a folder follow one another in natural order, `part.2` before `part.10`.
        Columns that folders name, as `year=2024`, are read only where they are named.
        A column of other values than numbers, such as words (strings), is refused, unless `columns`
        or the model's column names leave it out, or `feature_columns` read it.

        Args:
            address: Path or URL of the file or folder; a pattern (`part-*.parquet`), or a list of
                them. The rows of several files follow one another.
            columns: Names of the columns to read, in order; None reads all but the weights and an
                index of pandas or Dask. A column of lists gives several values to each row.
            weights: Name of the column with the weights of the rows, finite numbers >= 0. None
                weighs each row one.
            filters: Terms that rows must meet, as `[("year", ">=", 2024), ("kind", "in", ["a"])]`,
                or a list of such lists, of which one must be met. Files are left out by their
                folders and row groups by their statistics, without reading them. In all other row
                groups the columns of the filter are read once more, to count the rows that meet it.
                None for all rows.

        Raises:
            ValueError: nothing readable is there, or no row meets the filter, or a column is
                missing, or one of `columns` holds neither numbers nor words.
            Outage: the storage does not answer.
        """
        condition = _condition(columns, weights, filters)
        addresses = expanded(address)
        cut = from_parquet_files(addresses, columns, weights, condition)
        return cls._of_named_rows(cut, named_together(addresses), condition)

    @classmethod
    def from_arrow(
        cls,
        dataset: Any,
        columns: Sequence[str] | None = None,
        weights: str | None = None,
        filters: Filters | None = None,
    ) -> Dataset:
        """Return a dataset of the rows of a `pyarrow.dataset.Dataset`.

        Delta Lake (`DeltaTable.to_pyarrow_dataset`) and Lance (`lance.dataset`) hand one over, and
        `pyarrow.dataset.dataset` makes one of files. Its fragments follow one another in its own
        order. A chunk consists of whole row groups of a Parquet file; a fragment of another format
        is one chunk.

        Args:
            dataset: The dataset, without a filter.
            columns: As in `from_parquet`.
            weights: As in `from_parquet`.
            filters: As in `from_parquet`.

        Raises:
            ValueError: as `from_parquet` does.
            TypeError: it is no such dataset.
        """
        if not is_arrow_dataset(dataset):
            raise InvalidType(expected("dataset", "a pyarrow.dataset.Dataset", dataset))
        condition = _condition(columns, weights, filters)
        cut = from_arrow_dataset(dataset, columns, weights, condition)
        return cls._of_named_rows(cut, "the dataset of pyarrow", condition)

    @classmethod
    def _of_named_rows(cls, cut: Cut, name: str, condition: RowFilter | None) -> Dataset:
        """Return a dataset of the rows of a table with named columns."""
        # The name is the subject of error messages: `<name> must have at least one row`.
        dataset = cls.of_table(cut, name if condition is None else f"{name}, filtered,")
        source = next(next(dataset.batches()).sources())
        assert isinstance(source, NamedRows)  # for the type checker
        names = (*source.described, *(name for name, _ in source.unusable))
        by_name = tuple(name for name in source.names if name not in source.columns)
        dataset = replace(dataset, by_name=by_name)
        # The default change, `refuse_others`, refuses words. Feature columns replace it by one that
        # reads words, a model by one that reads only the model's columns.
        return dataset.read_as(dataset.width, refuse_others).named(names)

    @classmethod
    def from_npy(cls, address: Addresses, weights: Addresses | None = None) -> Dataset:
        """Return a dataset of the rows of an .npy file, (n, d), or of several.

        A local file is memory-mapped.

        Args:
            address: Path or URL; a pattern (`part-*.npy`), or a list of them. The rows of several
                files follow one another.
            weights: Path or URL in the same forms, of a file or several with the weights of the
                rows, (n,) finite numbers >= 0. None weighs each row one.

        Raises:
            ValueError: the file cannot be read, or is not a 2-D array in C order, or the weights
                are not one number for each row.
            Outage: the storage does not answer.
        """
        open_column = partial(from_npy_file, allow_1d=True)
        cut = None if weights is None else cut_of_files(expanded(weights), open_column)
        return cls._of_files(expanded(address), from_npy_file, cut)

    @classmethod
    def _of_files(
        cls, addresses: Sequence[str], open_file: Callable[[str], Cut], weights: Cut | None
    ) -> Dataset:
        """Return a dataset of the rows of files, one after another."""
        name, cut = named_together(addresses), cut_of_files(addresses, open_file)
        if weights is not None:
            cut = partial(cut_weighted, cut, weights, name)
        return cls.of_table(cut, name)

    @classmethod
    def of_table(cls, cut: Cut, name: str = "the data") -> Dataset:
        """Return a dataset of the rows of a table, in order.

        Raises:
            NoRows: the table has no rows.
        """
        whole = CutOnce(cut)
        batch = whole(None)
        if not batch.rows:
            raise NoRows(f"{name} must have at least one row, got none")
        return cls(
            batch.source.width,
            batch.rows,
            lambda _, reading: iter([reading.of(whole(reading.chunk_bytes))]),
            is_constant=True,
            is_table=True,
            _has_weights=batch.has_weights,
        )

    @classmethod
    def of_batches(cls, width: int, batches: Iterator[Batch]) -> Dataset:
        """Return a dataset of the batches of an iterator. It has a single epoch."""
        return cls(width, None, lambda _, reading: map(reading.of, batches), _batch_rows=0)

    def batches(self) -> Iterator[Batch]:
        """Return an iterator over the batches.

        Raises:
            Invalid: some columns hold no numbers.
        """
        return self._epochs(0, self._reading)

    def read_as(self, width: int, change: Change) -> Dataset:
        """Return a dataset of the same rows, read in another way.

        Args:
            width: Number of columns after the change.
            change: Returns other chunks of the same rows. It is applied to the whole table, before
                `batch` or `shuffle`, even if these methods were called first.

        Raises:
            Invalid: the rows are mapped.
        """
        if self._is_mapped:
            raise Invalid("feature_columns must come with a dataset without map, got one with it")
        return replace(self, width=width, _reading=self._reading._replace(change=change))

    def select(self, columns: Sequence[str]) -> Dataset:
        """Return a dataset of the same rows with these columns, by name, in this order.

        Raises:
            ValueError: the columns have no names, some are not among them, or hold no numbers.
            TypeError: `columns` is no list of names.
        """
        _check_columns(columns, "a list of names")
        known = (*(self.columns or ()), *self.by_name)
        unknown = [name for name in columns if name not in known]
        if unknown or not columns:
            must = f"among those of the dataset, {list(known)}"
            raise Invalid(expected("columns", must, unknown))
        before = self._reading.change
        # A second selection takes the place of the first one, which had columns of the same table.
        given = before.given if isinstance(before, Select) else self.columns or ()
        select = Select(tuple(columns), given)
        # `select.of` does not refuse words: only the width is needed here. `select` refuses them
        # when rows are read, as feature columns may still read them.
        first = next(self._epochs(0, self._reading._replace(change=select.of)), None)
        width = first.source.width if first and first.rows else self.width
        reading = self._reading._replace(change=select)
        return replace(self, width=width, _reading=reading, columns=tuple(columns))

    def without_weights(self) -> Dataset:
        """Return a dataset of the same rows, each of the weight one."""
        if not self._has_weights:
            return self
        reading = self._reading._replace(drops_weights=True)
        return replace(self, _has_weights=False, _reading=reading)

    def named(self, columns: Sequence[str] | None) -> Dataset:
        """Return a dataset of the same rows, whose columns have these names; None for none."""
        return replace(self, columns=None if columns is None else tuple(columns))

    def in_chunks_of(self, chunk_bytes: int | None) -> Dataset:
        """Return a dataset of the same rows, in chunks of about so many bytes; None: as usual.

        The chunks of Dask arrays and of iterators stay as they are. A dataset whose batches are
        smaller than several such chunks keeps the usual size: a batch would read a large stored
        chunk to use a part of it.
        """
        if self._batch_rows and chunk_bytes is not None:
            batch_bytes = self._batch_rows * self.width * _VALUE_BYTES
            if batch_bytes < _FEWEST_CHUNKS_OF_BATCH * chunk_bytes:
                chunk_bytes = None
        reading = self._reading._replace(chunk_bytes=chunk_bytes)
        return self if reading == self._reading else replace(self, _reading=reading)

    def in_chunks_for(self, sums_per_value: int, threads: int, *, on_gpu: bool) -> Dataset:
        """Return a dataset of the same rows, in chunks of a size that suits the processors.

        The order of shuffled rows depends on their chunks. Where processors compute, these have the
        usual size, so that the order is the same on every machine. Each value of a row may be added
        to `sums_per_value` sums.
        """
        if on_gpu:
            return self.in_chunks_of(GPU_TARGET_BYTES)
        if self._is_shuffled:
            return self.in_chunks_of(None)
        size = None if self.rows is None else self.rows * self.width * _VALUE_BYTES
        return self.in_chunks_of(chunk_bytes_for(sums_per_value * self.width, size, threads))

    @property
    def chunk_bytes(self) -> int:
        """Target size of the chunks that the library cuts itself."""
        return self._reading.chunk_bytes or TARGET_BYTES

    @property
    def is_in_order(self) -> bool:
        """True if every epoch has the rows in the same order."""
        return not self._is_shuffled

    def map(self, function: Callable[[Any], Any]) -> Dataset:
        """Run a function of NumPy on the rows, on the workers, whenever rows are read.

        The columns of the result have no names. Map the rows to predict in the same way.

        Args:
            function: Called with rows, (n, d) float32 or float64, for chunks of any size. It
                returns (n, e) numbers. The numbers of a row must follow from this row alone, and
                the function must not change its argument. It is called on the first rows now.

        Raises:
            ValueError: the function returns another number of rows, or what it returns for a row
                depends on other rows; or there are no rows, or they come from an iterator.
            TypeError: it is no function, cannot be pickled, or returns no numbers.
        """
        if self.is_standardized:
            raise Invalid("map(function) must come before standardize()")
        if self.rows is None:
            raise Invalid("map must come with rows that can be read again, got an iterator's")
        first = next(self.batches(), None)
        if first is None:
            raise Invalid("map must come with at least one row, got none")
        found = row_function(function, first[0])
        return replace(
            self,
            width=found.width,
            columns=None,
            by_name=(),
            _epochs=lambda epoch, reading: (
                mapped(batch, found) for batch in self._epochs(epoch, reading)
            ),
            _is_mapped=True,
        )

    def standardize(self) -> Dataset:
        """Let a new model standardize the rows: scale each column to mean 0 and deviation 1.

        `train` finds the means and deviations of these rows, by their weights, in one pass before
        the first step. The model keeps them, and standardizes the rows of all its calls by itself,
        also of those without this method. Its centers are standardized too. A column of one value
        becomes zero.

        Raises:
            ValueError: the rows come from an iterator, or `repeat` without end was called before.
        """
        if self.rows is None or self.is_endless:
            raise Invalid(
                "standardize() must come before repeat(), with rows that can be read again, got "
                f"{self!r}"
            )
        return replace(self, _standardizing=self._epochs)

    @property
    def is_standardized(self) -> bool:
        """True if a new model will standardize these rows, because `standardize` was called."""
        return self._standardizing is not None

    def batches_to_standardize_by(self) -> Iterator[Batch]:
        """Return the batches whose means and deviations a new model standardizes by."""
        epochs = self._standardizing or self._epochs
        return epochs(0, self._reading)

    def check_scaling(self, scaling: Scaling | None) -> None:
        """Refuse a dataset with `standardize` for a trained model that does not standardize.

        Raises:
            Invalid: the model has no scaling, and `standardize` was called.
        """
        if self.is_standardized and scaling is None:
            raise Invalid(
                "standardize must come with a new model, or with one that began with it; the "
                "centers of this one are in the units of rows: give overwrite=True (--overwrite), "
                "or another model_dir, to begin anew"
            )

    def scaled(self, scaling: Scaling | None) -> Dataset:
        """Return a dataset of the same rows, standardized by `scaling`; unchanged if it is None.

        Raises:
            Invalid: as `check_scaling` does.
        """
        self.check_scaling(scaling)
        if scaling is None:
            return self
        change = partial(scaled, scaling=scaling)
        return replace(
            self,
            _epochs=lambda epoch, reading: changed(self._epochs(epoch, reading), change),
            _standardizing=None,
        )

    def batch(self, rows: int) -> Dataset:
        """Cut the rows into batches of `rows` rows, in order; the last batch may be smaller.

        Raises:
            ValueError: `rows` is below 1.
        """
        check_integer("rows", rows, 1)
        return replace(
            self,
            _epochs=lambda epoch, reading: cut_anew(self._epochs(epoch, reading), rows),
            _batch_rows=rows,
            is_constant=False,
            is_table=False,
        )

    def shuffle(self, seed: int) -> Dataset:
        """Shuffle the chunks, and the rows within each chunk, differently in every epoch.

        Rows of different chunks are not mixed: mixing would need all chunks in memory at once.
        With `repeat` both before and after `shuffle`, the order of an epoch may occur again.

        Args:
            seed: Seed of the random generator.

        Raises:
            ValueError: `batch` was called before, or `seed` is below 0.
            TypeError: `seed` is not an integer.
        """
        check_integer("seed", seed, 0)
        if self._batch_rows is not None:
            raise Invalid("shuffle(seed) must come before batch(rows)")
        return replace(
            self,
            _epochs=lambda epoch, reading: shuffled_epoch(
                self._epochs(epoch, reading), seed, epoch
            ),
            _is_shuffled=True,
            is_table=False,
        )

    def repeat(self, n: int | None = None) -> Dataset:
        """Repeat the dataset n times; None repeats it without end.

        Raises:
            ValueError: `n` is below 1.
        """
        if n is not None:
            check_integer("n", n, 1)

        def epochs(epoch: int, reading: Reading) -> Iterator[Batch]:
            # Each repetition is an epoch with a number of its own, also in nested repeats (except
            # around an endless repeat that `take` cuts). An earlier `shuffle` in the chain draws
            # another order for each number.
            for number in count(epoch) if n is None else range(epoch * n, epoch * n + n):
                batches = self._epochs(number, reading)
                first = next(batches, None)
                if first is None:  # Later epochs are empty too; `repeat()` would never end.
                    return
                yield first
                yield from batches

        # Batches of an iterator (`rows` is None) come once, however often they are repeated.
        is_endless = self.is_endless or (n is None and bool(self.rows))
        return replace(
            self, _epochs=epochs, _is_repeated=True, is_table=False, is_endless=is_endless
        )

    def take(self, n: int) -> Dataset:
        """Take only the first n batches. Before `batch`, take only the first n rows.

        Raises:
            ValueError: `n` is below 0.
        """
        check_integer("n", n, 0)
        return self._sliced(0, n)

    def skip(self, n: int) -> Dataset:
        """Skip the first n batches. Before `batch`, skip the first n rows.

        Raises:
            ValueError: `n` is below 0.
        """
        check_integer("n", n, 0)
        return self._sliced(n, None)

    def _sliced(self, start: int, stop: int | None) -> Dataset:
        """Return a dataset of some batches, `start` to `stop` - 1; before `batch`, of rows."""
        unit = 1 if self._batch_rows is None else self._batch_rows
        rows = self.rows
        if rows is not None:
            # Rows skipped from a repeated dataset are missing in its first epochs only.
            rows = rows if self._is_repeated else max(0, rows - start * unit)
            rows = rows if stop is None else min(rows, stop * unit)

        def epochs(epoch: int, reading: Reading) -> Iterator[Batch]:
            batches = self._epochs(epoch, reading)
            if self._batch_rows is not None:
                return islice(batches, start, stop)
            return slice_rows(batches, start, stop)

        # A slice of shuffled rows has other rows in every epoch. A slice of repeated rows may end
        # within an epoch.
        is_constant = self.is_constant and not (self._is_shuffled or self._is_repeated)
        return replace(
            self,
            rows=rows,
            _epochs=epochs,
            is_constant=is_constant,
            is_table=False,
            is_endless=self.is_endless and stop is None,
        )


def _check_columns(columns: Any, must: str) -> None:
    """Refuse names of columns that are no list, or of which one is there twice."""
    is_list = isinstance(columns, Collection) and not isinstance(columns, NO_LISTS)
    if not (is_list and all(isinstance(name, str) for name in columns)):
        raise InvalidType(expected("columns", must, columns))
    if twice := [each for each, count in Counter(columns).items() if count > 1]:
        raise Invalid(f"columns must be different names, got {twice[0]!r} several times")


def _condition(columns: object, weights: object, filters: Filters | None) -> RowFilter | None:
    """Return the filter of rows, after checking all names; None for all rows.

    Raises:
        Invalid: a name is there twice.
        InvalidType: the columns are no list of names, or the weights are no name.
    """
    if columns is not None:
        _check_columns(columns, "a list of names, or None")
    if weights is not None and not isinstance(weights, str):
        raise InvalidType(expected("weights", "the name of a column, or None", weights))
    return None if filters is None else RowFilter.of(filters)


def cut_weighted(rows: Cut, weights: Cut, name: str, chunk_bytes: int | None) -> Batch:
    """Return the chunks of a table, with the weights of its rows beside them."""
    return weighted(rows(chunk_bytes), weights(chunk_bytes), name)


def _names_without(frame: Any, name: str) -> tuple[str, ...]:
    """Return the names of all columns of a data frame except one.

    Raises:
        Invalid: there is no such column, or it is no data frame.
    """
    names = names_of(frame) or ()
    if name not in names:
        must = "one number for each row, or the name of a column of a data frame"
        raise Invalid(expected("weights", must, name))
    return tuple(each for each in names if each != name)


def limit_epochs(array: Any, num_epochs: int | None = None) -> Dataset:
    """Return a dataset of `num_epochs` batches, each of them the whole array; None has no end.

    Raises:
        ValueError: the array is not 2-D, or `num_epochs` is below 1.
        TypeError: it is not an array.
    """
    if num_epochs is not None:
        check_integer("num_epochs", num_epochs, 1)
    return Dataset.from_array(array).repeat(num_epochs)
