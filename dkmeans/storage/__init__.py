"""Storage: read, write, replace, list and remove files at an address.

An address is a local path or a URL (`addresses`). `stores` opens what it is in, `contents` reads
and writes one file, `folders` lists and removes, and `disk` has what only a local disk needs.
`replacement` is the one module that detects a second driver; checkpoints are committed with it.
"""

from dkmeans.storage.addresses import (
    absolute,
    address_below,
    is_local,
    join,
    local_path,
    natural_key,
    refuse_malformed,
    without_user,
)
from dkmeans.storage.contents import (
    WRITE_ERRORS,
    Versioned,
    append,
    read,
    read_beginning,
    read_end,
    read_json,
    write,
    write_files,
    write_or_log,
    write_whole,
)
from dkmeans.storage.disk import flush, is_temporary_name, remove_temporary_files, temporary_folder
from dkmeans.storage.folders import (
    check_writable,
    children,
    clear,
    expand,
    files_below,
    has_folder,
    is_empty,
    is_folder,
    remove,
    rename,
)
from dkmeans.storage.replacement import replace, supports_conditional_writes
from dkmeans.storage.stores import check_not_forked, filesystem, unreachable, zarr_store

__all__ = [
    "WRITE_ERRORS",
    "Versioned",
    "absolute",
    "address_below",
    "append",
    "check_not_forked",
    "check_writable",
    "children",
    "clear",
    "expand",
    "files_below",
    "filesystem",
    "flush",
    "has_folder",
    "is_empty",
    "is_folder",
    "is_local",
    "is_temporary_name",
    "join",
    "local_path",
    "natural_key",
    "read",
    "read_beginning",
    "read_end",
    "read_json",
    "refuse_malformed",
    "remove",
    "remove_temporary_files",
    "rename",
    "replace",
    "supports_conditional_writes",
    "temporary_folder",
    "unreachable",
    "without_user",
    "write",
    "write_files",
    "write_or_log",
    "write_whole",
    "zarr_store",
]
