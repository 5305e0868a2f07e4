"""Bar charts of measured times, as SVG files that light and dark pages can show.

python benchmarks/charts.py docs/benchmarks/results/whole-jobs.json docs/pictures/whole-jobs.svg
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from html import escape
from pathlib import Path

WIDTH, ROW, NAMES, VALUES, TOP = 720, 30, 190, 90, 40
OWN, PEER, INK, PAPER = "#1a66d6", "#8a94a3", "#1f2328", "#ffffff"


def bars(title: str, values: Mapping[str, float], unit: str) -> str:
    """Return a picture with one bar for each value; bars of dkmeans have another color."""
    largest, height = max(values.values()), TOP + ROW * len(values) + 8
    drawn = "".join(
        _bar(TOP + ROW * place, name, value / largest, f"{value:,.6g} {unit}")
        for place, (name, value) in enumerate(values.items())
    )
    label = f"{title}: " + ", ".join(
        f"{name} {value:,.6g} {unit}" for name, value in values.items()
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(label)}" '
        f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-family="sans-serif" font-size="14" fill="{INK}">'
        f'<rect width="{WIDTH}" height="{height}" rx="6" fill="{PAPER}"/>'
        f'<text x="12" y="25" font-weight="600">{escape(title)}</text>{drawn}</svg>\n'
    )


def _bar(y: int, name: str, share: float, value: str) -> str:
    length = max(2.0, share * (WIDTH - NAMES - VALUES - 12))
    color = OWN if name.startswith("dkmeans") else PEER
    return (
        f'<text x="12" y="{y + 18}">{escape(name)}</text>'
        f'<rect x="{NAMES}" y="{y + 4}" width="{length:.1f}" height="{ROW - 10}" fill="{color}"/>'
        f'<text x="{NAMES + length + 8:.1f}" y="{y + 18}">{escape(value)}</text>'
    )


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    chart = json.loads(source.read_text())["chart"]
    target.write_text(bars(chart["title"], chart["values"], chart["unit"]))
