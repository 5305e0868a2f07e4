"""Exceptions and the checks that several modules share: their classes and the text of messages."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from dkmeans.errors import (
    Conflict,
    Invalid,
    InvalidCheckpoint,
    InvalidData,
    InvalidType,
    Outage,
    check_integer,
    check_number,
    counted,
    expected,
    readable,
)


@pytest.mark.parametrize("kind", [InvalidType, InvalidData, InvalidCheckpoint])
def test_mistakes_of_the_user_are_invalid_and_value_errors(kind):
    assert issubclass(kind, Invalid)
    assert issubclass(kind, ValueError)


def test_a_wrong_type_is_also_a_type_error():
    assert issubclass(InvalidType, TypeError)


@pytest.mark.parametrize("kind", [Conflict, Outage])
def test_conflicts_and_outages_are_not_mistakes_of_the_user(kind):
    assert not issubclass(kind, ValueError)


def test_a_message_has_the_name_the_rule_and_the_value():
    assert expected("seed", "an integer or None", "3") == (
        "seed must be an integer or None, got '3'"
    )


def test_a_long_value_is_cut_and_shown_with_its_type():
    message = expected("rows", "2-D", [0] * 1000)
    assert message.startswith("rows must be 2-D, got list [0, 0, 0, ")
    assert message.endswith("...")
    assert len(message) < 160


def test_a_value_of_exactly_the_longest_size_is_not_cut():
    assert expected("name", "short", "x" * 118) == f"name must be short, got '{'x' * 118}'"
    assert expected("name", "short", "x" * 119).endswith("...")


@pytest.mark.parametrize("value", [1, -1, np.int64(3), np.uint8(3)])
def test_integers_are_accepted(value):
    check_integer("n", value)


@pytest.mark.parametrize("value", [1.0, "1", None, True, np.True_, np.float64(1), [1]])
def test_values_that_are_not_integers_are_refused(value):
    with pytest.raises(InvalidType, match=r"^n must be an integer, got "):
        check_integer("n", value)
    with pytest.raises(InvalidType, match=r"^n must be an integer >= 2, got "):
        check_integer("n", value, 2)


def test_integers_below_the_least_are_refused_with_the_least():
    check_integer("n", 2, 2)
    with pytest.raises(Invalid, match=r"^n must be an integer >= 2, got 1$") as error:
        check_integer("n", 1, 2)
    assert not isinstance(error.value, TypeError)


@pytest.mark.parametrize("value", [None, 0, -1.5, np.float32(2), np.int8(2)])
def test_numbers_and_none_are_accepted(value):
    check_number("x", value)


@pytest.mark.parametrize("value", ["1", [1.0], True, False, np.True_])
def test_values_that_are_not_numbers_are_refused(value):
    with pytest.raises(InvalidType, match=r"^x must be a number or None, got "):
        check_number("x", value)


def test_what_is_counted_is_a_plural_unless_it_is_one():
    assert [counted(n, "row") for n in (0, 1, 2, 1200)] == [
        "0 rows",
        "1 row",
        "2 rows",
        "1,200 rows",
    ]


# Plurals that would follow a number. "rows/s" and "of rows" follow no number of rows.
_PLURALS = re.compile(
    r" ([a-z]+ )?(batches|centers|chunks|clusters|columns|files|lines|regions|rows|starts|steps|"
    r"threads|values|workers)\b(?!/)"
)
_NUMBERS = ("len(", "rows", "columns", "chunks", "threads", "workers", "steps", "shape[", "width")


def _plurals(path):
    """Yield the messages of a file in which a plural follows a number that may be one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            for value, text in zip(node.values, node.values[1:], strict=False):
                if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                    number = ast.unparse(value.value)
                    is_number = number.endswith(_NUMBERS) or number.startswith("len(")
                    if is_number and _PLURALS.match(text.value):
                        yield f"{path.name}:{value.lineno}: {number}{text.value}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.findall(r"%d" + _PLURALS.pattern, node.value)


def test_no_message_puts_a_plural_after_a_number_that_may_be_one():
    root = Path(__file__).parents[1]
    files = [*(root / "dkmeans").rglob("*.py"), *(root / "jobs").glob("*.py")]
    found = [each for file in files for each in _plurals(file)]
    assert not found, f"use `counted` of dkmeans/errors.py: {found}"


def test_sizes_are_written_for_people():
    texts = [readable(size) for size in (0, 999, 1000, 25_000_000, 160_000_000_000, 10**18)]
    assert texts == ["0 bytes", "999 bytes", "1.0 kB", "25.0 MB", "160 GB", "1000 PB"]
