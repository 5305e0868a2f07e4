"""A folder on each kind of storage."""

from uuid import uuid4

import pytest


@pytest.fixture
def place(request, tmp_path):
    """A folder of the kind that the test requests; by default on the disk."""
    kind = getattr(request, "param", "disk")
    if kind == "memory":
        return f"memory://{uuid4().hex}"
    if kind == "s3":
        return f"{request.getfixturevalue('s3')}/{uuid4().hex}"
    return str(tmp_path)
