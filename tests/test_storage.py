"""Addresses: local paths, memory and a real S3 server behind the same few verbs."""

from uuid import uuid4

import pytest

from dkmeans import Conflict, storage


def objects_below(address):
    """All that is kept there: SeaweedFS goes on listing the names of emptied folders."""
    if not place.startswith("s3://"):  # SeaweedFS, unlike S3, has folders, and keeps empty ones
        assert storage.children(f"{place}/folder") == []
    assert storage.read(f"{place}/folder-not/z").data == b"1"
    storage.remove(f"{place}/file")
    assert storage.read(f"{place}/file") is None


def test_removing_what_is_not_there_is_no_error(place):
    storage.remove(f"{place}/nothing")
    storage.remove(f"{place}/nowhere/nothing")


def test_flushing_changes_nothing(place):
    storage.write(f"{place}/folder/deep/x", b"1")
    storage.flush(f"{place}/folder")
    assert storage.read(f"{place}/folder/deep/x").data == b"1"


def test_a_name_with_spaces_and_signs_is_the_same_to_every_verb(place):
    name = "a b %20 é+&=#"
    storage.write(f"{place}/{name}/x", b"1")
    seen = storage.read(f"{place}/{name}/x")
    assert seen.data == b"1"
    assert storage.children(f"{place}/{name}") == ["x"]
    storage.replace(f"{place}/{name}/x", b"2", seen)
    assert storage.read(f"{place}/{name}/x").data == b"2"
    storage.remove(f"{place}/{name}")
    assert storage.read(f"{place}/{name}/x") is None
