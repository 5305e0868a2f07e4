"""The INPUT arguments of jobs: open a dataset by the ending of its paths or URLs.

All jobs that read rows call `open_input`.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import PurePosixPath

from dkmeans import Dataset, Invalid, storage
from dkmeans.data.sources.row_filter import COMPARISONS, Term
from dkmeans.errors import expected

_PARQUET, _ZARR, _NPY = "Parquet", "Zarr", "npy"
_ENDINGS = {".parquet": _PARQUET, ".parq": _PARQUET, ".pq": _PARQUET, ".zarr": _ZARR, ".npy": _NPY}
# Names in a folder that is a Zarr array or group, of versions 3 and 2.
_ZARR_NAMES = {"zarr.json", ".zarray", ".zgroup"}


# COLUMN COMPARISON VALUE, the longer comparisons first.
_FILTER = re.compile(
    r"""\s*("[^"]+"|'[^']+'|.+?)\s*(<=|>=|==|!=|<|>|=|\s(?:not\s+)?in(?=[\s(\[]))\s*(.+?)\s*""",
    re.DOTALL,
)
# A value and the comma after it.
_VALUE = re.compile(r"""\s*("[^"]*"|'[^']*'|[^,]*?)\s*,""")


def open_input(
    addresses: Sequence[str],
    columns: str | None,
    weights: str | None = None,
    filters: Sequence[str] | None = None,
) -> Dataset:
    """Return the dataset at some paths or URLs, one after another.

    Args:
        addresses: Paths, URLs or patterns of them. Each ends in .zarr, .zarr::array or
            .zarr::array,array, .npy, .parquet, .parq or .pq, or is a folder without such an ending.
        columns: Names of the columns of a Parquet dataset, or of arrays of a Zarr group, separated
            by commas; None takes all columns, or the array at the address.
        weights: Name of a column of a Parquet dataset with the weights of the rows, or path or URL
            of an array of weights of the kind of the dataset; None weighs each row one.
        filters: Terms that the rows of a Parquet dataset must all meet, as `year >= 2024`.

    Raises:
        Invalid: an ending is unknown, the endings differ, or columns are named or filtered by for a
            dataset that has no names.
        InvalidData: nothing readable is there.
        Outage: the storage does not answer.
    """
    kinds = {_kind(address): address for address in addresses}
    if len(kinds) > 1:
        raise Invalid(f"all INPUTs must be of one kind, got {', '.join(kinds.values())}")
    (kind,) = kinds
    if kind == _PARQUET:
        terms = [_term_in(text) for text in filters or ()] or None
        return Dataset.from_parquet(addresses, names_in("--columns", columns), weights, terms)
    if filters is not None:
        raise Invalid(f"--filter must come with a Parquet input, got it with {addresses[0]}")
    if columns is not None and kind != _ZARR:
        must = "--columns must come with an input of Parquet or Zarr"
        raise Invalid(f"{must}, got it with {addresses[0]}")
    if weights is not None and _kind(weights) != kind:
        raise Invalid(f"--weights must be of the kind of INPUT, {kind}, got {weights!r}")
    if kind == _ZARR:
        return Dataset.from_zarr(addresses, weights, names_in("--columns", columns))
    return Dataset.from_npy(addresses, weights)


def refuse_output_in_input(output: str, addresses: Sequence[str]) -> None:
    """Refuse an output that lies in a folder of Parquet that is read, or that matches a pattern.

    A second run, which resumes the first one, would read the output as rows.

    Raises:
        Invalid: the output is there.
    """
    place = _resolved(output)
    for address in addresses:
        given = _resolved(address)
        is_read = _is_below(place, given) or PurePosixPath(place).match(given)
        if is_read and _kind(address) == _PARQUET:
            must = f"outside of INPUT {address}, because a second run would read it as rows"
            raise Invalid(f"--output must be {must}, got {output!r}")


def refuse_model_in_input(
    flag: str, directory: str, addresses: Sequence[str], columns: str | None
) -> None:
    """Refuse a directory for models that is an input, or lies in an array of one.

    The directory becomes a Zarr group, and would no longer be read as the folder or array it was.
    A model in another group of the same store harms nothing.

    Raises:
        Invalid: the directory is there.
    """
    place = _resolved(directory)
    for address in addresses:
        # In a chain of fsspec, which also has "::", no model can be written.
        store, _, names = address.partition("::")
        given = _resolved(store)
        arrays = [storage.join(given, n) for n in names_in("--columns", names or columns) or [""]]
        is_in_array = any(place == each or _is_below(place, each) for each in arrays)
        if place == given or (is_in_array and _kind(address) == _ZARR):
            must = f"outside of INPUT {address}, which could no longer be read"
            raise Invalid(f"{flag} must be {must}, got {directory!r}")


def refuse_memory(flag: str, address: str) -> None:
    """Refuse an address in the memory of the command, which ends with it.

    Raises:
        Invalid: the address is one.
    """
    if address.startswith("memory:"):
        raise Invalid(expected(flag, "a path or URL that lasts longer than this process", address))


def _resolved(address: str) -> str:
    """Return one and the same text for all addresses of a place on this machine."""
    is_local = storage.is_local(address)
    return os.path.realpath(storage.absolute(address)) if is_local else address.rstrip("/")


def _is_below(place: str, folder: str) -> bool:
    return place.startswith(folder.rstrip("/") + "/")


def names_in(flag: str, text: str | None) -> list[str] | None:
    """Return the names in the value of a flag; None if it was not given.

    A name with a comma is in double quotes, as in a CSV file.

    Raises:
        Invalid: a name is empty, or quotes are not closed.
    """
    if text is None:
        return None
    try:
        (names,) = csv.reader([text], strict=True)
    except (ValueError, csv.Error):
        names = [""]
    if not all(names):
        raise Invalid(f"{flag} must be names with a comma between two, got {text!r}")
    return names


def joined_names(names: Iterable[object]) -> str:
    """Return the value of a flag from which `names_in` reads these names."""
    text = StringIO()
    csv.writer(text, lineterminator="").writerow(names)
    return text.getvalue()


def _term_in(text: str) -> Term:
    """Return the term of a filter in the value of `--filter`.

    Raises:
        Invalid: the text is no term.
    """
    found = _FILTER.fullmatch(text)
    if found is None:
        raise Invalid(
            f"--filter must be COLUMN COMPARISON VALUE, as 'year >= 2024' or 'kind in a,b', with "
            f"one of {', '.join(COMPARISONS)}, got {text!r}"
        )
    column, comparison, value = found.groups()
    if value[0] in "<>=!":  # as in SQL's `<>`, which would compare texts with "> ..."
        raise Invalid(
            f"--filter must have one of the comparisons {', '.join(COMPARISONS)}, got {text!r}; "
            "put a value that begins so in quotes"
        )
    comparison = " ".join(comparison.split())
    if comparison.endswith("in"):
        inner = value[1:-1] if (value[:1], value[-1:]) in (("(", ")"), ("[", "]")) else value
        # A comma within quotes is a part of a value.
        values = _VALUE.findall(f"{inner},")
        if not all(values):
            raise Invalid(f"--filter must have a value before and after each comma, got {text!r}")
        return _unquoted(column), comparison, tuple(map(_unquoted, values))
    return _unquoted(column), comparison, _unquoted(value)


def _unquoted(text: str) -> str:
    """Return a text without spaces and quotes around it."""
    text = text.strip()
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    return text[1:-1] if is_quoted else text


def _kind(address: str) -> str:
    """Return the kind of dataset at an address.

    Raises:
        Invalid: the ending is unknown, and it is not a folder of Zarr or Parquet.
        InvalidData: a pattern matches nothing.
        Outage: the storage does not answer.
    """
    # The ending is that of the store in `store::array`, and of the file in a chain of fsspec.
    parts = address.split("::")
    name = next((part for part in parts if "://" in part), parts[0]).rstrip("/").lower()
    for ending, kind in _ENDINGS.items():
        if name.endswith(ending):
            return kind
    found = storage.expand(address)
    if found != [address]:
        return _kind(found[0])
    if storage.is_folder(address) and (names := storage.children(address)):
        return _ZARR if _ZARR_NAMES.intersection(names) else _PARQUET
    hint = ". Write CSV as Parquet first, for example with pyarrow" if ".csv" in name else ""
    raise Invalid(
        "INPUT must end in .zarr (or .zarr::array), .npy or .parquet, or be a folder of Parquet "
        f"files, got {address!r}{hint}"
    )
