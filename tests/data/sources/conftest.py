"""Fixture of the tests of sources: an address in each kind of storage."""

from uuid import uuid4

import pytest


@pytest.fixture
def address(request, tmp_path):
    """Return an address at which nothing is stored."""
    name = f"rows-{uuid4().hex}"
    if request.param == "S3":
        return f"{request.getfixturevalue('s3')}/{name}"
    places = {"disk": tmp_path, "file URL": f"file://{tmp_path}", "memory": "memory://tests"}
    return f"{places[request.param]}/{name}"
