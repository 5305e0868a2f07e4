"""Replacement: a change by another driver is noticed, also where a server misbehaves."""

from uuid import uuid4

import pytest

from dkmeans import Conflict, Invalid, Outage, storage
from dkmeans.storage import Versioned
from tests.s3_proxy import NO_ETAG, first
from tests.storage.places import everywhere


@everywhere
def test_a_first_version_is_created_and_then_replaced(place):
    storage.write(f"{place}/other", b"")
    seen = storage.replace(f"{place}/x", b"one", None)
    assert storage.read(f"{place}/x") == seen
    again = storage.replace(f"{place}/x", b"two", seen)
    assert storage.read(f"{place}/x") == again
    assert storage.replace(f"{place}/x", b"three", storage.read(f"{place}/x")).data == b"three"
    assert storage.read(f"{place}/x").data == b"three"


@everywhere
def test_replacing_a_changed_file_is_a_conflict(place):
    storage.write(f"{place}/other", b"")
    seen = storage.replace(f"{place}/x", b"one", None)
    storage.replace(f"{place}/x", b"other", seen)
    with pytest.raises(Conflict, match=f"{place}/x was changed by another driver"):
        storage.replace(f"{place}/x", b"own", seen)
    assert storage.read(f"{place}/x").data == b"other"


@everywhere
def test_creating_an_existing_file_is_a_conflict(place):
    storage.write(f"{place}/x", b"other")
    with pytest.raises(Conflict, match=f"{place}/x"):
        storage.replace(f"{place}/x", b"own", None)
    assert storage.read(f"{place}/x").data == b"other"


@everywhere
def test_replacing_a_removed_file_is_a_conflict(place):
    storage.write(f"{place}/other", b"")
    seen = storage.replace(f"{place}/x", b"one", None)
    storage.remove(f"{place}/x")
    with pytest.raises(Conflict, match=f"{place}/x"):
        storage.replace(f"{place}/x", b"own", seen)
    assert storage.read(f"{place}/x") is None


def test_replacing_leaves_no_temporary_file(tmp_path):
    seen = None
    for data in (b"one", b"two"):
        seen = storage.replace(f"{tmp_path}/x", data, seen)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_an_object_store_gives_each_version_its_own_tag(s3):
    address = f"{s3}/{uuid4().hex}/x"
    seen = storage.replace(address, b"one", None)
    other = storage.replace(address, b"two", seen)
    assert seen.version != other.version


@everywhere
def test_support_of_conditional_writes_is_detected_and_the_probe_removed(place):
    storage.write(f"{place}/folder/other", b"")
    assert storage.supports_conditional_writes(f"{place}/folder/probe")
    assert storage.children(f"{place}/folder") == ["other"]


def test_a_server_that_ignores_conditions_is_detected(s3_without_conditional_writes):
    storage.write(f"{s3_without_conditional_writes}/folder/other", b"")
    assert not storage.supports_conditional_writes(f"{s3_without_conditional_writes}/folder/probe")
    assert storage.children(f"{s3_without_conditional_writes}/folder") == ["other"]


def test_one_missing_etag_is_not_taken_for_another_driver(proxy, faulty_place):
    address = f"{faulty_place}/x"
    proxy.fault = first(1, "/x", NO_ETAG, "PUT")
    seen = storage.replace(address, b"one", None)
    assert seen == storage.read(address)
    proxy.fault = first(1, "/x", NO_ETAG, "PUT")
    seen = storage.replace(address, b"two", seen)
    proxy.fault = first(1, "/x", NO_ETAG, "GET")
    seen = storage.read(address)
    assert seen == Versioned(b"two", "")
    storage.replace(address, b"three", seen)
    assert storage.read(address).data == b"three"
    assert len(proxy.faults) == 3


def test_a_server_that_sends_no_etags_is_refused_by_what_it_does(proxy, faulty_place):
    proxy.fault = lambda method, path: NO_ETAG
    with pytest.raises(Invalid, match=f"{faulty_place}/x must have an ETag.*the server sends "):
        storage.replace(f"{faulty_place}/x", b"one", None)


@pytest.mark.parametrize("fault", ["409 OperationAborted", "412 PreconditionFailed"])
def test_a_server_that_refuses_to_replace_an_unchanged_file_is_asked_again(
    short_patience, proxy, faulty_place, fault, caplog, monkeypatch
):
    seen = None
    monkeypatch.setattr("dkmeans.retry._PATIENCE_SECONDS", 30)
    for data in (b"one", b"two"):
        proxy.fault = first(2, "/x", fault, "PUT")
        seen = storage.replace(f"{faulty_place}/x", data, seen)
        assert storage.read(f"{faulty_place}/x") == seen
    assert caplog.text.count("although no other driver has written it") >= 2
    monkeypatch.setattr("dkmeans.retry._PATIENCE_SECONDS", 0.2)
    proxy.fault = lambda method, path: fault if method == "PUT" else None
    with pytest.raises(Outage, match=f"x cannot be reached: the server answered {fault[:3]} .*The"):
        storage.replace(f"{faulty_place}/x", b"three", seen)
