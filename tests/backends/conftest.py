"""Folder of the kernels that tests compile for the host."""

import os

import pytest


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Folder of the compiled kernels, which all processes of a run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
    folder.mkdir(exist_ok=True)
    return folder
