"""Folders that hold nothing but predictions: those with something else in them are refused."""

from __future__ import annotations

from collections.abc import Callable, Container

from dkmeans import storage
from dkmeans.errors import Invalid

# Key of the identity of predictions in another file, and name of a file that holds only that.
IDENTITY = "dkmeans_predictions"
IDENTITY_FILE = f"_{IDENTITY}"
# Name of the file with the metadata of a group or an array.
METADATA = "zarr.json"
# File that marks a folder of Parquet files as complete, and folder of the marks of regions.
SUCCESS, MARKS = "_SUCCESS", "_done"
# Number of names of others' files that a message shows.
_MOST_SHOWN = 3


def check_new(address: str, identity_file: str) -> None:
    """Refuse a folder that is not empty. It may hold temporary files of its identity.

    A driver that is killed while it writes the first identity leaves such a file.

    Raises:
        Invalid: the folder holds something else.
    """
    if not storage.is_empty(address) and not holds_only(address, identity_file, ()):
        raise Invalid(
            f"output must be new, or predictions of an earlier run; {address} holds something else"
        )


def holds_only(address: str, identity_file: str, names: Container[str]) -> bool:
    """Return whether a folder holds these names and temporary files of its identity only."""
    return all(
        name in names or storage.is_temporary_name(name, identity_file)
        for name in storage.children(address)
    )


def check_replaceable(address: str, is_own: Callable[[str], bool]) -> None:
    """Refuse to replace predictions in a folder with files of somebody else.

    Raises:
        Invalid: the folder holds other names.
    """
    names = (name for name in storage.children(address) if not storage.is_temporary_name(name))
    others = [name for name in names if not is_own(name)]
    if others:
        shown = ", ".join(map(repr, others[:_MOST_SHOWN]))
        raise Invalid(
            f"output must hold nothing but predictions, which this call replaces; "
            f"{address} holds {shown}: move it away, or give another output"
        )
