"""Libraries that only exports need, told of where they are missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dkmeans.errors import Invalid


@contextmanager
def needs(what: str, extra: str) -> Iterator[None]:
    """Say which extra brings what an import inside does not find.

    Raises:
        Invalid: something is not found.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise Invalid(
            f"{what} needs the package {error.name}: pip install 'dkmeans[{extra}]'"
        ) from error
