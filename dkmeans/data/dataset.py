"""Datasets: rows in storage or memory, and how they come in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

import dask.array as da
import zarr

from dkmeans.data.batches import Batch
from dkmeans.data.points import as_array
from dkmeans.data.sources.dask_array import from_dask
from dkmeans.data.sources.memory import from_array
from dkmeans.data.sources.npy import from_npy_file
from dkmeans.data.sources.parquet import from_parquet_files, numbers_only
from dkmeans.data.sources.zarr_array import from_zarr_array, open_array
from dkmeans.errors import Invalid, InvalidData, InvalidType, check_integer, expected
from dkmeans.retry import with_retries

Change = Callable[[Batch], Batch]


def _unchanged(batch: Batch) -> Batch:
    return batch


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Batches of rows, by the verbs of tf.data. Every verb returns another dataset.

    Nothing is read before a step needs it, and then by the worker that takes it.
    A dataset that `batch` was not called on is one batch of all its rows: full-batch training takes
    one step for each time it is repeated. As in tf.data the order
    of the verbs matters: `batch(r).repeat()` ends every epoch with a smaller batch where r does not
    divide the rows, `repeat().batch(r)` does not.

    Attributes:
        width: The number of columns.
        rows: The number of rows that one pass has at the most; None where only reading can tell.
    """

    width: int
    rows: int | None
    _passes: Callable[[int, Change], Iterator[Batch]]
    _batch_rows: int | None = None
    _is_constant: bool = False
    _is_shuffled: bool = False
    _is_repeated: bool = False
    _change: Change = _unchanged

    @classmethod
    def from_array(cls, array: Any) -> Dataset:
        """The rows of a NumPy, Dask or Zarr array, (n, d).

        Raises:
            ValueError: the array is not 2-D; TypeError: it is none.
        """
        return cls.of(array_chunks(array, "the array"))

    @classmethod
    def from_zarr(cls, address: str) -> Dataset:
        """The rows of a Zarr array, (n, d), at `store` or `store::array`, a path or a URL.

        Raises:
            ValueError: there is no such array, or it is not 2-D; Outage: nobody answers.
        """
        array = with_retries(address, lambda: open_array(str(address)))
        _check_table(str(address), array.shape)
        return cls.of(from_zarr_array(array, str(address)))

    @classmethod
    def from_parquet(cls, address: str, columns: Sequence[str] | None = None) -> Dataset:
        """The rows of a Parquet file, or of those below a folder in the order of their names.

        Columns of words are for an estimator with `feature_columns`; others refuse them.

        Args:
            address: Path or URL of the file or folder.
            columns: The columns to read, in order; None reads all. Lists give several values.

        Raises:
            ValueError: nothing readable is there, or a column is missing or holds neither numbers
                nor words; Outage: nobody answers.
        """
        if isinstance(columns, str):
            raise InvalidType(expected("columns", "a list of names, or None", columns))
        batch = with_retries(address, lambda: from_parquet_files(str(address), columns))
        return cls.of(batch, str(address)).read_as(batch.source.width, numbers_only)

    @classmethod
    def from_npy(cls, address: str) -> Dataset:
        """The rows of an .npy file, (n, d), memory-mapped where it is local.

        Raises:
            ValueError: it cannot be read, or is not a 2-D array in C order; Outage: nobody answers.
        """
        return cls.of(with_retries(address, lambda: from_npy_file(str(address))), str(address))

    @classmethod
    def of(cls, batch: Batch, name: str = "the data") -> Dataset:
        """The rows of a batch, in order.

        Raises:
            InvalidData: it has none.
        """
        batch = Batch.of(*batch.parts)
        if not batch.rows:
            raise InvalidData(f"{name} must have at least one row, got none")
        return cls(
            batch.source.width,
            batch.rows,
            lambda _, change: iter([change(batch)]),
            _is_constant=True,
        )

    @classmethod
    def of_batches(cls, width: int, batches: Iterator[Batch]) -> Dataset:
        """Batches that can be gone over once."""
        return cls(width, None, lambda _, change: map(change, batches), _batch_rows=0)

    def batches(self) -> Iterator[Batch]:
        """The batches, each a tuple of chunks.

        Raises:
            Invalid: some columns hold no numbers.
        """
        return self._passes(0, self._change)

    def read_as(self, width: int, change: Change) -> Dataset:
        """The same rows, read in another way: before any of them are put in batches, or shuffled.

        Args:
            width: How many columns they have then.
            change: Gives other chunks of the same rows.
        """
        return replace(self, width=width, _change=change)

    @property
    def is_constant(self) -> bool:
        """Whether every batch holds the same rows: full-batch training may end when it settles."""
        return self._is_constant

    def batch(self, rows: int) -> Dataset:
        """Cut the rows into batches of this many, in order; the last may be smaller.

        Raises:
            ValueError: `rows` is below 1.
        """
        check_integer("rows", rows, 1)
        return replace(
            self,
            _passes=lambda epoch, change: _rebatch(self._passes(epoch, change), rows),
            _batch_rows=rows,
            _is_constant=False,
        )

    def shuffle(self, seed: int) -> Dataset:
        """Put chunks in random order, and rows within each chunk, anew in every epoch.

        Rows of different chunks are not mixed further: that would need all of them at once.

        Raises:
            ValueError: the dataset is batched already, or `seed` is below 0; TypeError: it is none.
        """
        check_integer("seed", seed, 0)
        if self._batch_rows is not None:
            raise Invalid("shuffle(seed) must come before batch(rows)")
        return replace(
            self,
            _passes=lambda epoch, change: _shuffle(self._passes(epoch, change), seed, epoch),
            _is_shuffled=True,
        )

    def repeat(self, n: int | None = None) -> Dataset:
        """Go over the dataset n times, or without end.

        Raises:
            ValueError: `n` is below 1.
        """
        if n is not None:
            check_integer("n", n, 1)

        def passes(epoch: int, change: Change) -> Iterator[Batch]:
            for number in count(epoch) if n is None else range(epoch * n, epoch * n + n):
                batches = self._passes(number, change)
                first = next(batches, None)
                if first is None:  # nor will there be any in another pass
                    return
                yield first
                yield from batches

        return replace(self, _passes=passes, _is_repeated=True)

    def take(self, n: int) -> Dataset:
        """Only the first n batches, or, before `batch`, the first n rows.

        Raises:
            ValueError: `n` is below 0.
        """
        check_integer("n", n, 0)
        return self._sliced(0, n)

    def skip(self, n: int) -> Dataset:
        """All but the first n batches, or, before `batch`, the first n rows.

        Raises:
            ValueError: `n` is below 0.
        """
        check_integer("n", n, 0)
        return self._sliced(n, None)

    def _sliced(self, start: int, stop: int | None) -> Dataset:
        unit = 1 if self._batch_rows is None else self._batch_rows
        rows = self.rows
        if rows is not None:
            rows = rows if self._is_repeated else max(0, rows - start * unit)
            rows = rows if stop is None else min(rows, stop * unit)

        def passes(epoch: int, change: Change) -> Iterator[Batch]:
            batches = self._passes(epoch, change)
            if self._batch_rows is not None:
                return islice(batches, start, stop)
            return _slice_rows(batches, start, stop)

        fixed = self._is_constant and not (self._is_shuffled or self._is_repeated)
        return replace(self, rows=rows, _passes=passes, _is_constant=fixed)


def limit_epochs(array: Any, num_epochs: int) -> Dataset:
    """A dataset of `num_epochs` batches, each of them the whole array.

    Raises:
        ValueError: the array is not 2-D, or `num_epochs` is below 1; TypeError: it is no array.
    """
    return Dataset.from_array(array).repeat(num_epochs)


def _rebatch(batches: Iterator[Batch], rows: int) -> Iterator[Batch]:
    gathered = Batch()
    for batch in batches:
        start = 0
        while start < batch.rows:
            stop = min(start + rows - gathered.rows, batch.rows)
            gathered += batch.rows_between(start, stop)
            start = stop
            if gathered.rows == rows:
                yield gathered
                gathered = Batch()
    if gathered.rows:
        yield gathered


def _shuffle(batches: Iterator[Batch], seed: int, epoch: int) -> Iterator[Batch]:
    # One after the other, passes over the rows have orders of their own, whoever repeats them.
    for number, batch in enumerate(batches, epoch):
        yield batch.shuffled((seed, number))


def _slice_rows(batches: Iterator[Batch], start: int, stop: int | None) -> Iterator[Batch]:
    """The rows from number `start` to before `stop`, counted through all the batches."""
    first = 0
    for batch in batches:
        if stop is not None and first >= stop:
            return
        low = max(start - first, 0)
        high = batch.rows if stop is None else min(stop - first, batch.rows)
        if low < high:
            yield batch.rows_between(low, high)
        first += batch.rows


def array_chunks(array: Any, name: str, *, narrow: bool = False) -> Batch:
    """The chunks of a 2-D array of any of the kinds that the library knows.

    Args:
        array: The array.
        name: What to call it in messages.
        narrow: Whether a 1-D Zarr array will do, as a table of one column.

    Raises:
        InvalidData: it is not 2-D; InvalidType: it is no array.
    """
    if isinstance(array, da.Array):
        _check_table(name, array.shape)
        return from_dask(array, name)
    if isinstance(array, zarr.Array):
        if not (narrow and array.ndim == 1):
            _check_table(name, array.shape)
        return from_zarr_array(array, name)
    if hasattr(array, "__cuda_array_interface__"):
        array = array.get()
    if not hasattr(array, "__array__"):
        raise InvalidType(expected(name, "a NumPy, Dask, Zarr or CuPy array", type(array).__name__))
    array = as_array(array, name)
    _check_table(name, array.shape)
    return from_array(array, name)


def _check_table(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or shape[1] == 0:
        raise InvalidData(
            f"{name} must be 2-D (rows, columns) with at least one column, got shape {shape}"
        )
