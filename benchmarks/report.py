"""Results of benchmarks: tables that are printed while measured, JSON, and a page made of JSON.

    report = Report("kernel")
    report.table("Whole fits: seconds", ["data", "dkmeans", "FAISS"])
    report.row("flights", [0.9, 2.4])
    report.write(Path("build/benchmark"))

`python benchmarks/report.py FOLDER` writes the page FOLDER/index.md from all JSON files there.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_WIDTH, _ROW, _NAMES, _VALUES, _TOP = 720, 30, 190, 110, 40
# Height of a row that has a curve.
_CURVE = 48
# Benchmarks by the names of their files, in the order of the page.
_HEADINGS = {
    "kernel": "The kernel beside its peers",
    "whole-fits": "Whole fits",
    "whole-fits-amx": "Whole fits with a matrix unit",
    "whole-jobs": "Whole jobs from storage",
    "prediction": "Predictions of whole folders",
    "first-centers": "First centers",
    "many-workers": "Many workers",
    "soak": "Long runs",
}
# Beginning of the column that is no measurement but a ratio of two.
_RATIO = "best peer /"
_OWN, _PEER, _INK, _PAPER = "#1a66d6", "#8a94a3", "#1f2328", "#ffffff"


class Report:
    """Tables of one benchmark, with the machine and the versions that they were measured with.

    Args:
        name: Name of the JSON file.
        packages: Packages whose versions are stated.
    """

    def __init__(self, name: str, packages: Iterable[str] = ()) -> None:
        self._name = name
        self._content: dict[str, Any] = {
            "machine": machine(),
            "date": str(date.today()),
            "versions": {"Python": platform.python_version()} | versions(packages),
            "tables": [],
        }
        print(_stated(self._content))

    def table(self, title: str, columns: Sequence[str], note: str = "") -> None:
        """Begin a table; the first column has labels, the others numbers."""
        table = {"title": title, "columns": list(columns), "note": note, "rows": []}
        self._content["tables"].append(table)
        print(f"\n### {title}\n\n{_line(columns)}\n{_line(['---'] * len(columns))}")

    def curve(self, title: str, columns: Sequence[str], note: str = "") -> None:
        """Begin a table whose picture has a curve for each column, over the rows."""
        self.table(title, columns, note)
        self._content["tables"][-1]["curve"] = True

    def row(self, label: str, numbers: Sequence[float | None]) -> None:
        """Add a row to the table that was begun last."""
        self._content["tables"][-1]["rows"].append([label, *numbers])
        print(_line([label, *map(shown, numbers)]), flush=True)

    def write(self, folder: Path) -> None:
        """Write the JSON file of the benchmark into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self._name}.json").write_text(json.dumps(self._content, indent=1) + "\n")


def machine() -> str:
    """Return the processor, the number of cores, and the kernel."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((x.partition(": ")[2] for x in lines if x.startswith("model name")), "?")
    cores = len(os.sched_getaffinity(0))
    return f"{processor}, {cores} cores, Linux {platform.release().split('-')[0]}"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def shown(number: float | None) -> str:
    """Return a number with three digits, or nothing."""
    if number is None:
        return ""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def page(results: dict[str, dict[str, Any]], folder: Path) -> str:
    """Return a page of all results, and write a picture of the first row of each table."""
    parts = ["# Results\n"]
    for name, content in results.items():
        parts.append(f"## {_HEADINGS[name]}\n\n{_stated(content)}\n")
        for place, table in enumerate(content["tables"]):
            picture = f"{name}-{place}.svg"
            (folder / picture).write_text(curves(table) if _is_curve(table) else bars(table))
            parts.append(f"### {table['title']}\n")
            parts += [f"{table['note']}\n"] * bool(table["note"])
            parts.append(f"![{_caption(table)}]({picture})\n")
            lines = [table["columns"], ["---"] * len(table["columns"])]
            lines += [[row[0], *map(shown, row[1:])] for row in table["rows"]]
            parts.append("\n".join(map(_line, lines)) + "\n")
    return "\n".join(parts)


def bars(table: dict[str, Any]) -> str:
    """Return a picture with a bar for each number of a row."""
    label, values = _pictured(table)
    largest, height = max(values.values()), _TOP + _ROW * len(values) + 8
    drawn = "".join(
        _bar(_TOP + _ROW * place, name, value, value / largest)
        for place, (name, value) in enumerate(values.items())
    )
    return _picture(table, f"{table['title']}, {label}", height, drawn)


def curves(table: dict[str, Any]) -> str:
    """Return a picture with a curve for each column, from zero to its largest number."""
    columns = _columns(table)
    drawn = "".join(
        _drawn_curve(_TOP + _CURVE * place, name, values)
        for place, (name, values) in enumerate(columns.items())
    )
    title = f"{table['title']}, {table['columns'][0]} to {table['rows'][-1][0]}"
    return _picture(table, title, _TOP + _CURVE * len(columns) + 8, drawn)


def _picture(table: dict[str, Any], title: str, height: int, drawn: str) -> str:
    described = escape(_caption(table))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{described}" '
        f'width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="sans-serif" font-size="14" fill="{_INK}">'
        f'<rect width="{_WIDTH}" height="{height}" rx="6" fill="{_PAPER}"/>'
        f'<text x="12" y="25" font-weight="600">{escape(title)}</text>'
        f"{drawn}</svg>\n"
    )


def _pictured(table: dict[str, Any]) -> tuple[str, dict[str, float]]:
    """Return the label and the numbers of the row with most numbers, of equal ones the last."""
    label, *numbers = max(reversed(table["rows"]), key=lambda row: len(row) - row.count(None))
    pairs = zip(table["columns"][1:], numbers, strict=True)
    return label, {n: x for n, x in pairs if x is not None and not n.startswith(_RATIO)}


def _is_curve(table: dict[str, Any]) -> bool:
    return bool(table.get("curve"))


def _columns(table: dict[str, Any]) -> dict[str, list[float]]:
    """Return the numbers of each column, by its name."""
    _, *numbers = zip(*table["rows"], strict=True)
    return dict(zip(table["columns"][1:], map(list, numbers), strict=True))


def _caption(table: dict[str, Any]) -> str:
    if _is_curve(table):
        ends = ((name, values[0], values[-1]) for name, values in _columns(table).items())
        listed = ", ".join(f"{name} {shown(first)} to {shown(last)}" for name, first, last in ends)
        return f"{table['title']}, {table['columns'][0]} to {table['rows'][-1][0]}: {listed}"
    label, values = _pictured(table)
    listed = ", ".join(f"{name} {shown(value)}" for name, value in values.items())
    return f"{table['title']}, {label}: {listed}"


def _bar(y: int, name: str, value: float, share: float) -> str:
    length = max(2.0, share * (_WIDTH - _NAMES - _VALUES))
    color = _OWN if name.startswith("dkmeans") else _PEER
    return (
        f'<text x="12" y="{y + 18}">{escape(name)}</text>'
        f'<rect x="{_NAMES}" y="{y + 4}" width="{length:.1f}" height="{_ROW - 10}" fill="{color}"/>'
        f'<text x="{_NAMES + length + 8:.1f}" y="{y + 18}">{shown(value)}</text>'
    )


def _drawn_curve(y: int, name: str, values: Sequence[float]) -> str:
    length, height, largest = _WIDTH - _NAMES - _VALUES, _CURVE - 12, max(values)
    bottom, last = y + 4 + height, max(1, len(values) - 1)
    points = " ".join(
        f"{_NAMES + length * place / last:.1f},{bottom - height * value / largest:.1f}"
        for place, value in enumerate(values)
    )
    return (
        f'<text x="12" y="{y + 28}">{escape(name)}</text>'
        f'<line x1="{_NAMES}" y1="{bottom}" x2="{_NAMES + length}" y2="{bottom}" '
        f'stroke="{_PEER}"/>'
        f'<polyline points="{points}" fill="none" stroke="{_OWN}" stroke-width="2"/>'
        f'<text x="{_NAMES + length + 8}" y="{y + 28}">{shown(values[-1])}</text>'
    )


def _stated(content: dict[str, Any]) -> str:
    named = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    return f"{content['machine']}; {content['date']}. {named}."


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


if __name__ == "__main__":
    place = Path(sys.argv[1])
    files = [place / f"{name}.json" for name in _HEADINGS]
    found = {file.stem: json.loads(file.read_text()) for file in files if file.exists()}
    (place / "index.md").write_text(page(found, place))
    print(f"{place / 'index.md'}: a page of {', '.join(found)}")
