"""Optional libraries: a clear error where one is not installed.

The exports, `sweep`, `evaluate`, `MLflowHook` and `dkmeans.sklearn` import their libraries within
`needs`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dkmeans.errors import Invalid


@contextmanager
def needs(what: str, extra: str) -> Iterator[None]:
    """Replace a failed import in the block by an error that names what needs the extra.

    Raises:
        Invalid: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise Invalid(
            f"{what} needs the package {error.name}: pip install 'dkmeans[{extra}]'"
        ) from error


def is_of(given: Any, module: str, name: str) -> bool:
    """Return whether an object is of a class of a module; a module not imported has no objects."""
    found = sys.modules.get(module)
    return found is not None and isinstance(given, getattr(found, name))
