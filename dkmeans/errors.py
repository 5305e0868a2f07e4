"""What goes wrong, by whose hand.

Every mistake that the user can mend is an `Invalid`: the jobs print its text and exit with 2,
and a traceback is left to defects.
"""

import numpy as np

# Of what was given, so much is shown: an array of a million rows is not.
_LONGEST = 120


class Invalid(ValueError):
    """Something the user gave cannot be used; the text says what, why and what would do."""


class InvalidType(Invalid, TypeError):
    """An argument of the wrong type."""


class InvalidData(Invalid):
    """Rows, or the place they should come from, that cannot be clustered."""


class InvalidCheckpoint(Invalid):
    """A checkpoint that is missing, damaged, or of another model than the one asked for."""


class Conflict(RuntimeError):
    """Another driver has written to the same model directory since this one last did."""


class Outage(RuntimeError):
    """Storage or the cluster is gone; the same call, made again later, goes on."""


def expected(what: str, must: str, got: object) -> str:
    """The one form of an argument's error: what it is, what it must be, what it was."""
    text = repr(got)
    shown = text if len(text) <= _LONGEST else f"{type(got).__name__} {text[:_LONGEST]}..."
    return f"{what} must be {must}, got {shown}"


def check_integer(name: str, value: object, least: int | None = None) -> None:
    """Refuse what is no integer, or below the least; a bool is none.

    Raises:
        InvalidType: it is no integer; Invalid: it is too small.
    """
    must = "an integer" if least is None else f"an integer >= {least}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise InvalidType(expected(name, must, value))
    if least is not None and value < least:
        raise Invalid(expected(name, must, value))


def check_number(name: str, value: object) -> None:
    """Refuse what is neither a number nor None.

    Raises:
        InvalidType: it is neither.
    """
    if value is None or (isinstance(value, float | int | np.number) and value is not True):
        return
    raise InvalidType(expected(name, "a number or None", value))
