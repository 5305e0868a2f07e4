"""Exceptions, and the checks and messages that several modules share.

A mistake that the user can correct is an `Invalid`: the jobs print its text without a traceback and
exit with 2. A `Conflict` is a second driver, and an `Outage` is storage or a cluster that does not
answer. A `ResultLost` never leaves the executors. All other exceptions are defects.
"""

import operator
import os
from typing import Any

import numpy as np

# Longer values are cut in messages: the user may have given an array of a million rows.
_SHOWN_CHARACTERS = 120


class Invalid(ValueError):
    """A value from the user that cannot be used; the text says what, why and what is needed."""


class InvalidType(Invalid, TypeError):
    """An argument of the wrong type."""


class InvalidData(Invalid):
    """Rows, or a place of rows, that cannot be clustered."""


class NoRows(InvalidData):
    """An input without any rows."""


class Refusal(Invalid):
    """A request that a store refuses, for want of permission for instance."""


class InvalidCheckpoint(Invalid):
    """A checkpoint that is missing, damaged, or of another model than the requested one."""


class Conflict(RuntimeError):
    """A change of the model directory by another driver, since this driver last read it."""


class Outage(RuntimeError):
    """Storage or a cluster that does not answer. The same call can be made again later."""


class ResultLost(RuntimeError):
    """A result that was on a GPU when the GPU failed. The same computation will succeed now."""


# Of an input without rows.
NO_BATCHES = "the input must have at least one batch of rows, got none"


def expected(what: str, must: str, got: object) -> str:
    """Return the message for a wrong value: "<what> must be <must>, got <got>"."""
    shown = repr(got)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = f"{type(got).__name__} {shown[:_SHOWN_CHARACTERS]}..."
    return f"{what} must be {must}, got {shown}"


def file_changed(name: str, must: str, got: str) -> InvalidData:
    """Return the error for a file that is not as it was when it was first opened."""
    return InvalidData(
        f"{name} must have {must}, as it had when it was first opened, got {got}: the file has "
        "changed; run again"
    )


def counted(number: int, noun: str) -> str:
    """Return a number and what it counts, for messages: "1 row", "2,000 rows"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def readable(size: int) -> str:
    """Return a number of bytes for people, such as "16.8 MB"."""
    value, unit = float(size), "bytes"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"


def check_integer(name: str, value: object, least: int | None = None) -> int:
    """Return an integer of any type; refuse other values, and one below `least`.

    A bool is not an integer, and an array of no dimensions may be one.

    Raises:
        InvalidType: it is not an integer.
        Invalid: it is too small.
    """
    must = "an integer" if least is None else f"an integer >= {least}"
    number = as_integer(value)
    if number is None:
        raise InvalidType(expected(name, must, value))
    if least is not None and number < least:
        raise Invalid(expected(name, must, value))
    return number


def check_path(name: str, value: object) -> str:
    """Return the text of an argument that must be a path or URL.

    Raises:
        InvalidType: it is none.
        Invalid: it is empty.
    """
    if not isinstance(value, str | os.PathLike):
        raise InvalidType(expected(name, "a path or URL", value))
    if not os.fspath(value):  # would become the root of the file system
        raise Invalid(expected(name, "a path or URL", value))
    return os.fspath(value)


def check_bool(name: str, value: object) -> bool:
    """Return the value of an argument that must be a bool.

    Raises:
        InvalidType: it is none.
    """
    if not isinstance(value, bool | np.bool_):
        raise InvalidType(expected(name, "a bool", value))
    return bool(value)


def as_integer(value: Any) -> int | None:
    """Return an integer of any type as an int; None for another value, such as a bool."""
    try:
        return None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        return None


def check_number(name: str, value: object) -> None:
    """Refuse a value that is neither a number nor None.

    Raises:
        InvalidType: it is neither.
    """
    is_number = isinstance(value, float | int | np.number) and not isinstance(value, bool)
    if value is not None and not is_number:
        raise InvalidType(expected(name, "a number or None", value))
