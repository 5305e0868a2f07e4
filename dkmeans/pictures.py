"""Pictures for notebooks: HTML with inline SVG, of estimators and datasets.

Lines and text take the color of the text around them, so the pictures suit light and dark pages.
Nothing is a script, and each picture has a label that a screen reader reads out.

    table("KMeans", {"step": "12"}, [line("Loss of each iteration", losses)])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

_WIDTH, _HEIGHT = 240, 80
# A picture of more values shows so many of them, evenly spaced.
_MOST_VALUES = 120
# Areas are filled with this color, which is visible on white and on black.
_FILL = 'fill="#4c8bf5" fill-opacity="0.6"'
_STROKE = 'stroke="currentColor" fill="none"'


def table(
    title: str,
    facts: Mapping[str, object],
    pictures: Iterable[str] = (),
    notes: Iterable[str] = (),
) -> str:
    """Return a title, a table of facts, and below it pictures, and notes as a list.

    Facts that are None are left out.
    """
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(str(value))}</td></tr>'
        for name, value in facts.items()
        if value is not None
    )
    caption = f'<caption style="text-align:left"><strong>{escape(title)}</strong></caption>'
    shown = "".join(f'<div style="display:inline-block">{each}</div>' for each in pictures)
    listed = "".join(f"<li>{escape(note)}</li>" for note in notes)
    below = f"<ul>{listed}</ul>" if listed else ""
    return f"<div><table>{caption}<tbody>{rows}</tbody></table>{shown}{below}</div>"


def line(label: str, values: Sequence[float] | NDArray[np.floating]) -> str:
    """Return a line through some values, from the first on the left to the last on the right."""
    heights = _heights(_thinned(np.asarray(values, np.float64)))
    places = np.linspace(0, _WIDTH, len(heights)) if len(heights) != 1 else np.array([_WIDTH / 2])
    points = " ".join(f"{x:.1f},{_HEIGHT - y:.1f}" for x, y in zip(places, heights, strict=True))
    if len(heights) == 1:
        x, _, y = points.partition(",")
        return _svg(label, f'<circle cx="{x}" cy="{y}" r="3" {_FILL}/>')
    return _svg(label, f'<polyline points="{points}" stroke-width="2" {_STROKE}/>')


def bars(label: str, values: Sequence[float] | NDArray[np.integer]) -> str:
    """Return a bar for each value, the largest first."""
    sorted_values = np.sort(np.asarray(values, np.float64))[::-1]
    shown = _thinned(sorted_values)
    largest = float(shown.max(initial=0)) or 1.0
    width = _WIDTH / max(1, len(shown))
    drawn = "".join(
        f'<rect x="{number * width:.1f}" y="{_HEIGHT * (1 - value / largest):.1f}" '
        f'width="{width * 0.8:.1f}" height="{_HEIGHT * value / largest:.1f}" {_FILL}/>'
        for number, value in enumerate(shown)
    )
    return _svg(label, drawn)


def chunks(label: str, sizes: Sequence[int] | NDArray[np.integer]) -> str:
    """Return a rectangle of all rows, cut from top to bottom where chunks end."""
    ends = _thinned(np.cumsum(np.asarray(sizes, np.float64)))
    heights = _HEIGHT * ends / max(1.0, float(np.sum(sizes)))
    cuts = "".join(f'<path d="M0 {y:.1f}H{_WIDTH / 2:.0f}" {_STROKE}/>' for y in heights)
    whole = f'<rect width="{_WIDTH / 2:.0f}" height="{_HEIGHT}" stroke="currentColor" {_FILL}/>'
    return _svg(label, whole + cuts)


def _svg(label: str, content: str) -> str:
    """Return a picture with its label, which those who see it read below it."""
    text = escape(label)
    return (
        f'<figure style="margin:0.5em"><svg role="img" aria-label="{escape(label, quote=True)}" '
        f'width="{_WIDTH + 8}" height="{_HEIGHT + 8}" viewBox="-4 -4 {_WIDTH + 8} {_HEIGHT + 8}">'
        f'{content}</svg><figcaption aria-hidden="true">{text}</figcaption></figure>'
    )


def _thinned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return as many of the values as a picture shows, the first and the last among them."""
    if len(values) <= _MOST_VALUES:
        return values
    return values[np.linspace(0, len(values) - 1, _MOST_VALUES).round().astype(np.int64)]


def _heights(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return finite values scaled to the height of a picture."""
    values = values[np.isfinite(values)]
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    if not high > low:
        return np.full(len(values), _HEIGHT / 2)
    return np.asarray(_HEIGHT * (values - low) / (high - low))
