"""The notebooks of the documentation: run from top to bottom, and committed as such a run is."""

import os
from importlib import import_module
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds_of_outputs(notebook):
    """Return the types of media that each cell shows, such as `image/png`.

    What is printed is left out: a busy machine may warn.
    """
    return [
        sorted(kind for each in cell.outputs for kind in each.get("data", {}))
        for cell in code_cells(notebook)
    ]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """One kernel for all notebooks: a new one would import everything again."""
    folder = str(tmp_path_factory.mktemp("notebooks"))
    manager = import_module("jupyter_client").KernelManager()
    manager.start_kernel(cwd=folder, env={**os.environ, "TMPDIR": folder})
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def nbformat():
    return import_module("nbformat")  # an import of some seconds


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_runs_from_top_to_bottom_and_shows_what_it_showed_its_author(
    path, kernel, nbformat
):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    shown = kinds_of_outputs(notebook)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    assert "stderr" not in {
        each.get("name") for cell in code_cells(notebook) for each in cell.outputs
    }
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset_selective -f .*"))
    import_module("nbclient").NotebookClient(notebook, timeout=240, km=kernel).execute()
    assert kinds_of_outputs(notebook)[1:] == shown
