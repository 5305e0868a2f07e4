"""Names of columns: find those that a model was trained with in another input.

A center is a point in the space of the columns that it was trained on. `input_fn` finds these
columns by name in inputs that have names, whatever their order is, and takes inputs without names
by position. A column of several values has their number in its name: `v[4]`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from dkmeans.errors import InvalidData

# Names of columns in their order; None if the columns have no names.
Names = tuple[str, ...] | None
# Collections that are no lists of names: a set has another order in each process.
NO_LISTS = (str, bytes, Mapping, set, frozenset)

logger = logging.getLogger("dkmeans")

# Number of names that a message shows.
_MOST_SHOWN = 20
_LENGTH = re.compile(r"\[(\d+)\]$")


def described(names: Sequence[str], widths: Sequence[int]) -> tuple[str, ...]:
    """Return the names of columns, with the number of values in a row where there are several."""
    pairs = zip(names, widths, strict=True)
    return tuple(name if width == 1 else f"{name}[{width}]" for name, width in pairs)


def names_of_width(names: Names, width: int) -> Names:
    """Return saved names of the columns of rows; None if they do not tell the values apart.

    Models of feature columns that an earlier version saved have no numbers of values.
    """
    told = 0 if names is None else max(len(names), sum(map(_width_of, names)))
    return names if told >= width else None


def places_of(columns: Sequence[str], given: Sequence[str], width: int) -> list[int]:
    """Return the places of the values of some columns in a row.

    Args:
        columns: Names of the columns, all in `given`.
        given: Names of all columns of the row, as `described` returns them.
        width: Number of values in the row.
    """
    # Without lists, a name may end in a length by chance.
    widths = [1] * len(given) if len(given) == width else [_width_of(name) for name in given]
    stops = list(accumulate(widths))
    spans = {n: range(s - w, s) for n, w, s in zip(given, widths, stops, strict=True)}
    return [place for name in columns for place in spans[name]]


def value_names(names: Sequence[str] | None, width: int) -> list[str]:
    """Return a name for each value of a row, for people: `v[0]`, `v[1]` for a column `v[2]`.

    Args:
        names: Names of the columns of the row, as `described` returns them; none or empty if there
            are none.
        width: Number of values in the row.
    """
    if names and len(names) == width:
        return list(names)
    found = [
        f"{_LENGTH.sub('', name)}[{number}]" if _LENGTH.search(name) else name
        for name in names or ()
        for number in range(_width_of(name))
    ]
    # Beside lists, a name may end in a length by chance.
    return found if len(found) == width else [f"column {place}" for place in range(width)]


def places_named(names: Names, width: int) -> list[str]:
    """Return `value_names` for messages: names in quotes, and numbers of columns without."""
    found = value_names(names, width)
    return list(map(repr, found)) if found != value_names(None, width) else found


def _width_of(name: str) -> int:
    match = _LENGTH.search(name)
    return int(match[1]) if match else 1


@dataclass(frozen=True, slots=True)
class KnownColumns:
    """Columns that a model was trained with, which are looked for in an input.

    Attributes:
        names: Names of the columns, in order; None if the model has none.
        allows_surplus: True if the input may have further columns, which are ignored.
        whose: Description of the columns, for messages.
    """

    names: Names = None
    allows_surplus: bool = False
    whose: str = "those that the model was trained with"
    # Surplus columns that were logged: the batches of an iterator have them again and again.
    _logged: set[str] = field(default_factory=set, repr=False, compare=False)

    def or_those_of(self, before: Names) -> KnownColumns:
        """Return these columns, or those of the batches before if the model has no names."""
        if self.names is not None or before is None:
            return self
        return replace(self, names=before, whose="those of the batches before it")

    def chosen(self, given: Sequence[str] | None, name: str) -> Names:
        """Return the names of the columns to read, in the model's order; None for all as they are.

        Surplus columns are named in one line of the log.

        Args:
            given: Names of the columns of the input; None if they have none.
            name: Name of the input, for messages.

        Raises:
            InvalidData: a column is missing, or a surplus one is not allowed.
        """
        if self.names is None or given is None:
            return None
        found = set(given)
        # The keys of a dict do not tell how many values a column has.
        keys = tuple(name if name in found else _LENGTH.sub("", name) for name in self.names)
        missing = [n for key, n in zip(keys, self.names, strict=True) if key not in found]
        surplus = [each for each in given if each not in set(keys)]
        if missing or (surplus and not self.allows_surplus):
            which = "is missing" if missing else "is not among them"
            raise self._refused(name, given, f"{_shown(missing or surplus)} {which}")
        if news := [each for each in surplus if each not in self._logged]:
            self._logged.update(news)
            logger.info("columns of %s that the model does not use: %s", name, _shown(news))
        return keys

    def check(self, given: Sequence[str] | None) -> None:
        """Refuse columns with other names, or with other numbers of values, than the model's.

        Raises:
            InvalidData: the names are known to differ.
        """
        if self.names is None or given is None:
            if self.names is not None:
                logger.debug("taking columns without names as %s", _shown(self.names))
        elif tuple(given) != self.names:
            raise self._refused("the input", given, "they differ")

    def _refused(self, name: str, given: Sequence[str], why: str) -> InvalidData:
        must = f"{self.whose}, {_shown(self.names or ())}"
        return InvalidData(f"the columns of {name} must be {must}, got {_shown(given)} ({why})")


# Columns of a new model: any.
ANY = KnownColumns()


def _shown(names: Sequence[str]) -> str:
    """Return names as text, of very many only the first ones."""
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return f"{list(names[:_MOST_SHOWN])}{more}"
