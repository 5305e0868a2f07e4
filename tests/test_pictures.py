"""Pictures for notebooks: well-formed, labelled, without scripts, and true to their values."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from dkmeans import pictures

SVG = {
    "line": lambda values: pictures.line("a <line>", values),
    "bars": lambda values: pictures.bars("a <line>", values),
    "chunks": lambda values: pictures.chunks("a <line>", values),
}


def parsed(html):
    return ElementTree.fromstring(html)


@pytest.mark.parametrize("kind", SVG)
@pytest.mark.parametrize("values", [[], [3], [3, 1, 2], [0, 0], range(1, 10_000)])
def test_a_picture_is_well_formed_small_and_has_a_label_for_screen_readers(kind, values):
    html = SVG[kind](list(values))
    svg = parsed(html).find("svg")
    assert (svg.get("role"), svg.get("aria-label")) == ("img", "a <line>")
    assert len(html) < 20_000
    assert "nan" not in html
    assert "script" not in html


def test_a_line_goes_through_its_values_from_left_to_right():
    points = re.search(r'points="([^"]*)"', pictures.line("loss", [4.0, 2.0, 0.0]))[1]
    assert points == "0.0,0.0 120.0,40.0 240.0,80.0"


def test_a_line_leaves_out_values_that_are_not_finite():
    html = pictures.line("loss", [np.nan, 4.0, np.inf, 0.0])
    assert re.search(r'points="([^"]*)"', html)[1] == "0.0,0.0 240.0,80.0"


def test_bars_fall_from_the_largest_value():
    bars = parsed(pictures.bars("sizes", np.array([1, 4, 2]))).iter("rect")
    assert [float(bar.get("height")) for bar in bars] == [80, 40, 20]


def test_chunks_end_at_their_share_of_the_height():
    cuts = parsed(pictures.chunks("chunks", [1, 1, 2])).iter("path")
    assert [cut.get("d") for cut in cuts] == ["M0 20.0H120", "M0 40.0H120", "M0 80.0H120"]


def test_a_table_names_its_facts_and_leaves_out_those_that_are_none():
    table = parsed(pictures.table("<b>", {"a & b": 1, "none": None}, [pictures.bars("c", [1])]))
    assert table.find("table/caption/strong").text == "<b>"
    (row,) = table.iter("tr")
    assert [cell.text for cell in row] == ["a & b", "1"]
    assert row[0].get("scope") == "row"
    assert table.find(".//svg").get("aria-label") == "c"


def test_colors_are_those_of_the_text_or_visible_on_any_page():
    for draw in SVG.values():
        colors = set(re.findall(r'(?:fill|stroke)="([^"]*)"', draw([3, 1])))
        assert colors <= {"currentColor", "none", "#4c8bf5"}
