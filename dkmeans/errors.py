"""What goes wrong, by whose hand.

Every mistake that the user can mend is an `Invalid`: the jobs print its text and exit with 2,
and a traceback is left to defects.
"""

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


def expected(what: str, must: str, got: object) -> str:
    """The one form of an argument's error: what it is, what it must be, what it was."""
    text = repr(got)
    shown = text if len(text) <= _LONGEST else f"{type(got).__name__} {text[:_LONGEST]}..."
    return f"{what} must be {must}, got {shown}"
