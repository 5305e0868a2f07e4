"""Sizes of the values that executors pass to functions of chunks, such as centers."""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass
from typing import Any


def size_of(value: Any) -> int:
    """Return the size of a value in bytes: of a dataclass or a tuple, that of all its parts."""
    if is_dataclass(value) and not isinstance(value, type):
        return sum(size_of(getattr(value, each.name)) for each in fields(value))
    if isinstance(value, tuple):
        return sum(map(size_of, value))
    return int(getattr(value, "nbytes", 0) or sys.getsizeof(value))
