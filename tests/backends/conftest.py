"""Folder of the kernels that tests compile for the host and for GPUs."""

import pytest


@pytest.fixture(scope="session")
def compiled(pytestconfig):
    """Folder of compiled kernels, which all processes and later runs share.

    The name of a file is a digest of what it was compiled from.
    """
    return pytestconfig.cache.mkdir("kernels")
