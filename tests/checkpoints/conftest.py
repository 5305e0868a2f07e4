"""Models' directories on every kind of storage."""

from uuid import uuid4

import pytest

from dkmeans import checkpoints


@pytest.fixture(params=["disk", "memory", "s3"])
def model_dir(request, tmp_path):
    """Address of an empty model's directory, one of each kind."""
    if request.param == "memory":
        address = f"memory://{uuid4().hex}/model"
    elif request.param == "s3":
        address = f"{request.getfixturevalue('s3')}/{uuid4().hex}/model"
    else:
        address = str(tmp_path / "model")
    checkpoints.prepare(address)
    return address
