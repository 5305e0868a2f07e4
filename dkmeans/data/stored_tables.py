"""Stored tables as chunks: the files or arrays at the addresses that a user gives, in order.

`Dataset.from_zarr` and its siblings expand addresses and patterns here, and get a function (`Cut`)
that cuts all of the files into chunks. Zarr arrays also lie side by side, as the columns of a
group. The files are opened on the driver, which reads their metadata only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from dkmeans import storage
from dkmeans.data.arrays import check_column, check_table
from dkmeans.data.batches import Batch, Cut
from dkmeans.data.chunks import TARGET_BYTES
from dkmeans.data.columns import NO_LISTS
from dkmeans.data.columns_side_by_side import side_by_side
from dkmeans.data.sources.zarr_array import from_zarr_array, open_array
from dkmeans.data.views import Columns
from dkmeans.errors import Invalid, InvalidData, InvalidType, expected
from dkmeans.retry import with_retries

# What the functions that open files take: an address or pattern, or several of them.
Addresses = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def expanded(given: Addresses, expand: Callable[[str], list[str]] = storage.expand) -> list[str]:
    """Return the addresses of files that are given as addresses or patterns.

    Raises:
        InvalidType: an address is not a path.
        InvalidData: there is none, or a pattern matches nothing.
    """
    is_list = isinstance(given, Iterable) and not isinstance(given, NO_LISTS)
    addresses: list[Any] = list(given) if is_list else [given]  # type: ignore[arg-type]
    for address in addresses:
        if not isinstance(address, str | os.PathLike):
            raise InvalidType(expected("address", "a path, a URL, or a list of them", given))
    if not addresses:
        raise InvalidData("address must name at least one file, got an empty list")
    return [found for address in addresses for found in expand(os.fspath(address))]


def expand_store(address: str) -> list[str]:
    """Return the addresses that match a pattern of Zarr stores, each with the array's name."""
    store, colons, array = address.partition("::")
    return [f"{found}{colons}{array}" for found in storage.expand(store)]


def named_together(addresses: Sequence[str]) -> str:
    """Return a name of several files, for messages."""
    more = len(addresses) - 1
    return addresses[0] if not more else f"{addresses[0]} and {more} more"


def cut_of_files(addresses: Sequence[str], open_file: Callable[[str], Cut]) -> Cut:
    """Return a function that cuts files into chunks, one after another."""
    cuts = [with_retries(each, partial(open_file, each)) for each in addresses]
    return cuts[0] if len(cuts) == 1 else partial(_cut_all, cuts)


def _cut_all(cuts: Sequence[Cut], chunk_bytes: int | None) -> Batch:
    """Return the chunks of several tables, one after another.

    Raises:
        InvalidData: the tables have different numbers of columns.
    """
    batches = [cut(chunk_bytes) for cut in cuts]
    parts = [part for batch in batches for part in batch.parts if part.rows]
    sources = [next(part.sources()) for part in parts]
    for source in sources:
        if source.width != sources[0].width:
            raise InvalidData(
                f"all files must have as many columns as the first: {sources[0].name} has "
                f"{sources[0].width}, {source.name} {source.width}"
            )
    return Batch(tuple(parts))


def zarr_rows(address: str) -> Cut:
    """Return a function that cuts the Zarr array, or arrays side by side, at an address."""
    if names := names_in(address):
        return group_rows(address.partition("::")[0], names)
    return _zarr_cut(address, check_table)


def names_in(address: str) -> Sequence[str]:
    """Return the names of the arrays in `store::a,b,c`; none for the address of one array."""
    names = address.partition("::")[2].split(",")
    return names if len(names) > 1 else ()


def group_rows(address: str, columns: Sequence[str]) -> Cut:
    """Return a function that cuts arrays of the Zarr group at an address, side by side."""
    if not columns or not all(columns):
        raise Invalid(expected("columns", "names of arrays", list(columns)))
    store, _, group = address.partition("::")
    prefix = f"{group.rstrip('/')}/" if group else ""
    arrays = [f"{store}::{prefix}{name}" for name in columns]
    return partial(_cut_side_by_side, [_zarr_cut(each, _check_part) for each in arrays], address)


def _check_part(address: str, shape: tuple[int, ...]) -> None:
    """Refuse an array that is neither (n,) nor (n, w)."""
    if len(shape) != 1:
        check_table(address, shape)


def _zarr_cut(address: str, check: Callable[[str, tuple[int, ...]], None]) -> Cut:
    """Return a function that cuts the Zarr array at an address, once its shape is checked."""
    array = open_array(address)
    check(address, array.shape)
    return from_zarr_array(array, address)


def _cut_side_by_side(cuts: Sequence[Cut], name: str, chunk_bytes: int | None) -> Batch:
    """Return the chunks of a table whose columns are tables."""
    each = (chunk_bytes or TARGET_BYTES) // len(cuts)
    return side_by_side([cut(each) for cut in cuts], name, Columns)


def zarr_column(address: str) -> Cut:
    """Return a function that cuts the Zarr array at an address, (n,) or (n, 1), into chunks."""
    return _zarr_cut(address, check_column)
