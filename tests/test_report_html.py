"""The parts of the report: numbers as text, and tables that are safe HTML."""

import numpy as np
import pytest

from dkmeans.report_html import count_text, facts_html, table_html, value_text


@pytest.mark.parametrize(
    ("value", "deviation", "text"),
    [
        (523_456.3, 900, "523,456"),
        (1_712_345_678, 1e6, "1,712,345,678"),
        (1_712_345_678.25, 0.1, "1,712,345,678.25"),
        (12_345.678, 1e9, "12,346"),
        (0.000123456, 0, "0.0001235"),
        (1.5e15, 1, "1.5e+15"),
        (np.nan, 1, "none"),
    ],
)
def test_a_number_has_no_exponent_where_people_write_none(value, deviation, text):
    assert value_text(value, deviation) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(3, "3"), (12345678901, "12,345,678,901"), (2.5, "2.5"), (1e9 / 3, "333,333,333")],
)
def test_a_count_is_written_without_exponent(count, text):
    assert count_text(count) == text


def test_names_and_values_cannot_become_markup():
    for html in (
        facts_html({"<b>": "a & b"}),
        table_html(["<b>", "a & b"], [["<b>", "a & b"]]),
    ):
        assert "&lt;b&gt;" in html
        assert "a &amp; b" in html
        assert "<b>" not in html
