"""The parts of the report's HTML: numbers as text, tables, and charts as SVG.

`report_page` puts them together. Charts take their colors from the page (docs/decisions/025).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from html import escape
from io import StringIO
from typing import Any

import numpy as np

from dkmeans.plots import digits_for

# Colors that people with any color vision can tell apart (Petroff, Accessible color sequences for
# data visualization, 2021), and that both light and dark pages show.
_PALETTE: tuple[str, ...] = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6")
_PALETTE += ("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
# Placeholders that `chart_html` replaces: the color of text and lines by the page's text color, and
# the color behind the centers' numbers on the map of the rows by the page's background.
_INK, PAPER = "#010203", "#030201"
# A heat map does not grow beyond this number of rows or columns.
_MOST_CELLS = 40
# Smallest size of a chart, whose text is readable on a phone; and size of a cell of a heat map.
_WIDTH_INCHES, _HEIGHT_INCHES, _CELL_INCHES = 5.2, 3.2, (0.7, 0.28)
_PIXELS_PER_INCH, _LARGEST_SCALE, _SMALLEST_SCALE = 96, 1.2, 0.65
# Larger numbers have an exponent.
_LARGEST_PLAIN = 1e12
# Larger sums of weights are shown without a fraction.
_LARGEST_FRACTION = 1e8


def chart_style(mpl: Any) -> dict[str, Any]:
    """Return the style of charts: text stays text in the SVG, and takes the color of the page."""
    inked = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor")
    return {
        **dict.fromkeys(inked, _INK),
        "axes.prop_cycle": mpl.cycler(color=_PALETTE),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "font.size": 11,
        "text.parse_math": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "dkmeans",
        "backend": "svg",
    }


def value_text(value: Any, deviation: float = 0.0) -> str:
    """Return a number with enough digits to distinguish values that differ by a deviation."""
    number = float(value)
    if np.isnan(number):
        return "none"
    digits = digits_for(number, deviation, 4)
    # If no digits after the point are needed, all of those before it are written, without exponent.
    is_whole = 9999.5 <= abs(number) < _LARGEST_PLAIN and abs(number) >= 10.0 ** (digits - 1)
    return f"{number:,.0f}" if is_whole else f"{number:,.{digits}g}"


def count_text(number: Any) -> str:
    """Return a number of rows, or a sum of weights, with all digits before the point."""
    value = float(number)
    is_whole = value.is_integer() or value >= _LARGEST_FRACTION
    return f"{value:,.0f}" if is_whole else f"{value:,.10g}"


def facts_html(facts: Mapping[str, str]) -> str:
    """Return a list of names with their values."""
    pairs = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return f"<dl>{pairs}</dl>"


def name_html(name: Any) -> str:
    """Return the HTML of a name, such as that of a column, that may wrap if it is very long."""
    return f'<span class="name">{escape(str(name))}</span>'


def table_html(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table whose first column has the headings of the rows."""
    heads = "".join(f'<th scope="col">{name_html(name)}</th>' for name in header)
    body = "".join(
        f'<tr><th scope="row">{name_html(first)}</th>'
        + "".join(f"<td>{escape(str(value))}</td>" for value in rest)
        + "</tr>"
        for first, *rest in rows
    )
    # A table that is wider than the page scrolls alone, also by the keyboard.
    return (
        f'<div class="wide" tabindex="0" role="group" aria-label="Table: {escape(header[0])} and '
        f'more"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def chart_html(
    title: str,
    draw: Callable[[Any], Any],
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    cells: tuple[int, int] = (0, 0),
    room: float = 0.0,
) -> str:
    """Return a chart, which `draw` draws on axes of matplotlib, and the table of its numbers.

    It grows with the numbers of rows and columns of a heat map, `cells`, and has `room` inches more
    in height, for names that are written upwards.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 importing it takes time

    shown = min(cells[0], _MOST_CELLS), min(cells[1], _MOST_CELLS)
    width = max(_WIDTH_INCHES, 2 + _CELL_INCHES[0] * shown[1])
    height = max(_HEIGHT_INCHES, 1 + _CELL_INCHES[1] * shown[0]) + room
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.set_title("")
    content = StringIO()
    with warnings.catch_warnings():
        # The browser draws the letters, so matplotlib's font need not have them.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    svg = content.getvalue()[content.getvalue().index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(_INK, "currentColor").replace(PAPER, "var(--page)")
    svg = re.sub(r'(width|height)="[\d.]+pt" ?', "", svg, count=2)
    label = f'role="img" aria-label="{escape(title, quote=True)}"'
    pixels = _PIXELS_PER_INCH * width
    widths = f"max-width: {_LARGEST_SCALE * pixels:.0f}px; min-width: "
    widths += f"{_SMALLEST_SCALE * pixels:.0f}px"
    svg = svg.replace("<svg", f'<svg {label} style="{widths}"', 1)
    table = f"<details><summary>Numbers</summary>{table_html(header, rows)}</details>"
    drawn = f'<div class="wide">{svg}</div>'
    return f"<figure>{drawn}<figcaption>{escape(title)}</figcaption></figure>{table}"
