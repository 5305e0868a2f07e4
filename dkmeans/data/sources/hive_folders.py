"""Columns in the names of folders, as Hive, Spark and Dask write them: `year=2024/part.0.parquet`.

`from_parquet_files` of the module `parquet` reads them: a folder gives all rows of its files one
value. A column is one of integers if all its values are, else one of words, as for pyarrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple
from urllib.parse import unquote

import pyarrow as pa

# What Hive writes for a missing value.
_MISSING = "__HIVE_DEFAULT_PARTITION__"


# Names of columns, and the value of each in all rows of a file.
FolderValues = tuple[tuple[str, pa.Scalar], ...]


class FolderColumns(NamedTuple):
    """Columns that the folders of some files name.

    Attributes:
        kinds: Type of each column by name.
        values: Values of the columns, for each file.
    """

    kinds: dict[str, pa.DataType]
    values: list[FolderValues]


def folder_columns(root: str, paths: Sequence[str]) -> FolderColumns:
    """Return the columns that the folders between a folder and the files below it name.

    Args:
        root: Path of the folder.
        paths: Paths of the files. A file outside of a column's folders has no value there.
    """
    texts = [_texts(path.removeprefix(root)) for path in paths]
    found: dict[str, set[str | None]] = {}
    for each in texts:
        for name, text in each.items():
            found.setdefault(name, set()).add(text)
    kinds = {name: _kind_of(values) for name, values in found.items()}

    @cache  # very many files may be in one folder: they share their values
    def typed(*texts: str | None) -> FolderValues:
        pairs = zip(kinds.items(), texts, strict=True)
        return tuple((n, pa.scalar(text, pa.string()).cast(kind)) for (n, kind), text in pairs)

    return FolderColumns(kinds, [typed(*map(each.get, kinds)) for each in texts])


def folder_names(path: str) -> frozenset[str]:
    """Return the names of the columns that the folders of a path name."""
    return frozenset(_texts(path))


def _texts(path: str) -> dict[str, str | None]:
    """Return the values that the folders of a path name, as text."""
    folders = [folder.partition("=") for folder in path.split("/")[:-1]]
    return {
        unquote(name): None if text == _MISSING else unquote(text)
        for name, equals, text in folders
        if name and equals
    }


def _kind_of(texts: set[str | None]) -> pa.DataType:
    try:
        pa.array([text for text in texts if text is not None], pa.string()).cast(pa.int64())
    except pa.ArrowInvalid:
        return pa.string()
    return pa.int64()
