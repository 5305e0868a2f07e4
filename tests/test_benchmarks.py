"""Benchmarks that run without a GPU or other libraries, and the page that is made of results."""

import json
import shutil
from xml.etree import ElementTree

from tests.programs import ROOT, output_of

# Runs the script that is the first argument, with the other arguments.
RUN = "import runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"


def test_streaming_to_a_gpu_is_measured_on_the_processor_too():
    sizes = ["--gigabytes", 0.008, "--chunk-megabytes", 1, "--clusters", 4, "--steps", 3]
    printed = output_of(RUN, "benchmarks/gpu_streaming.py", *sizes, "--backend", "native")
    *_, uncompressed, compressed = printed.splitlines()
    assert uncompressed.startswith("| none | 0.01 | ")
    assert compressed.startswith("| default | ")
    for line in (uncompressed, compressed):
        _, _, _, decoded, pcie, trained, ratio, _ = map(str.strip, line.split("|"))
        assert not pcie
        assert min(map(float, (decoded, trained, ratio))) >= 0


RESULTS = ROOT / "docs/benchmarks/results"


def test_the_page_of_results_is_made_of_their_json(tmp_path):
    for file in RESULTS.glob("*.json"):
        shutil.copy(file, tmp_path)
    output_of(RUN, "benchmarks/report.py", tmp_path)
    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert made == {file.name: file.read_text() for file in RESULTS.iterdir()}
    for picture in tmp_path.glob("*.svg"):
        ElementTree.parse(picture)


REPORT = """
import sys; sys.path.insert(0, "benchmarks")
from pathlib import Path
from report import Report
report = Report("kernel", ["numpy", "missing"])
report.table("Whole fits: seconds", ["data", "dkmeans", "a|b", "best peer / dkmeans"])
report.row("noise", [0.1234, None, 2])
report.row("clusters", [1234.5, 3, 0.5])
report.write(Path(sys.argv[1]))
"""


def test_a_table_is_printed_and_written_as_it_was_measured(tmp_path):
    printed = output_of(REPORT, tmp_path / "new")
    content = json.loads((tmp_path / "new/kernel.json").read_text())
    assert "| noise | 0.123 |  | 2 |\n| clusters | 1,234 | 3 | 0.5 |" in printed
    assert content["tables"][0]["rows"] == [
        ["noise", 0.1234, None, 2],
        ["clusters", 1234.5, 3, 0.5],
    ]
    assert set(content["versions"]) == {"Python", "numpy"}
    assert content["machine"].split(",")[0] in printed
