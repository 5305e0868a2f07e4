"""Stores: processes that were forked, missing credentials, servers that misbehave."""

import os
import pickle
import time
from io import BytesIO
from uuid import uuid4

import numpy as np
import pytest
import zarr
from obstore.exceptions import GenericError

from dkmeans import Dataset, Invalid, InvalidData, KMeans, storage
from dkmeans.data.sources import zarr_array
from dkmeans.errors import Refusal
from tests.programs import result_in_a_fork
from tests.s3_proxy import first


def test_a_process_that_was_forked_after_object_storage_was_used_is_refused_and_does_not_hang(s3):
    address = f"{s3}/{uuid4().hex}"
    zarr.create_array(storage.zarr_store(f"{address}.zarr"), data=np.ones((8, 2)), chunks=(8, 2))
    (batch,) = Dataset.from_zarr(f"{address}.zarr").batches()
    for use in (
        lambda: storage.read(f"{address}/x"),
        lambda: storage.children(address),
        lambda: storage.zarr_store(address),
        lambda: batch.source.read(0, 8),
    ):
        assert f"Invalid: {address}" in (told := result_in_a_fork(use))
        assert "must be used by a process that was not forked" in told


def test_a_host_that_does_not_exist_is_a_mistake_and_not_an_outage():
    text = (
        "Generic S3 error: error sending request\n lookup address information: Name or service not"
    )
    error = storage.unreachable("s3://b/x", GenericError(text))
    expected = (
        "s3://b/x cannot be reached: Generic S3 error: error sending request; there is no host"
    )
    assert str(error).startswith(expected)
    error = storage.unreachable("az://b/x", GenericError("Generic: Account must be specified"))
    assert str(error).endswith("Account must be specified; set AZURE_STORAGE_ACCOUNT_NAME")


def test_stores_of_azure_have_a_repr_and_different_places(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "someone")
    stores = [
        storage.zarr_store(f"az://{place}") for place in ("one/rows", "two/rows", "one/others")
    ]
    assert len({repr(store) for store in stores}) == 3
    assert len({zarr_array._place(store) for store in stores}) == 3


def test_an_archive_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "text.zip").write_text("no archive")
    for name in ("none.zip", "text.zip"):
        for use in (storage.filesystem, storage.expand, Dataset.from_npy, Dataset.from_parquet):
            with pytest.raises(InvalidData, match=rf"zip://\*.npy::.*{name} cannot be reached"):
                use(f"zip://*.npy::{tmp_path}/{name}")


def test_http_is_allowed_where_the_endpoint_says_http(s3, monkeypatch):
    address = f"{s3}/{uuid4().hex}"
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    storage.write(f"{address}/x", b"1")
    assert storage.read(f"{address}/x").data == b"1"
    assert storage.children(address) == ["x"]


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:9000", "", "http://", "http://a b", "http://:80", "http://a:99999"]
)
def test_an_endpoint_that_is_no_url_is_refused_by_its_variable(monkeypatch, endpoint):
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    for use in (storage.read, storage.children):
        with pytest.raises(Invalid, match=r"^AWS_ENDPOINT_URL must be a URL that begins with"):
            use(f"s3://{uuid4().hex}/x")


def test_missing_credentials_are_one_line_and_not_retried(s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    # The server of the tests stands in for that of a cloud, and gives no credentials.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", os.environ["AWS_ENDPOINT_URL"])
    address = f"s3://{uuid4().hex}/rows"
    uses = [
        lambda: storage.read(f"{address}/x"),
        lambda: storage.write(f"{address}/x", b""),
        lambda: storage.children(address),
        lambda: storage.is_empty(address),
        lambda: storage.expand(f"{address}/*"),
        lambda: Dataset.from_npy(f"{address}.npy"),
        lambda: Dataset.from_parquet(f"{address}.parquet"),
        lambda: Dataset.from_zarr(f"{address}.zarr"),
        lambda: KMeans(2, address).train(lambda: np.eye(2), steps=1),
    ]
    began = time.monotonic()
    for use in uses:
        with pytest.raises(InvalidData) as caught:
            use()
        assert "without credentials" in str(caught.value)
        assert "AWS_ACCESS_KEY_ID" in str(caught.value)
        assert "AWS_PROFILE and the files of ~/.aws are not read" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 30


def test_an_object_that_is_missing_once_is_read(proxy, faulty_place):
    storage.write(f"{faulty_place}/x", b"1")
    proxy.fault = first(1, "/x", "404 NoSuchKey")
    assert storage.read(f"{faulty_place}/x").data == b"1"
    np.save(buffer := BytesIO(), np.arange(6.0).reshape(3, 2))
    storage.write(f"{faulty_place}/rows.npy", buffer.getvalue())
    rows = Dataset.from_npy(f"{faulty_place}/rows.npy")
    proxy.fault = first(2, "rows.npy", "404 NoSuchKey")
    (chunk,) = next(iter(rows.batches()))
    assert chunk.load(2).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert len(proxy.faults) == 3


@pytest.mark.parametrize("shards", [None, (8, 2)])
def test_a_chunk_that_is_missing_once_is_no_fill_value(proxy, faulty_place, caplog, shards):
    values = np.arange(16.0).reshape(8, 2)
    store = storage.zarr_store(f"{faulty_place}/rows.zarr")
    zarr.create_array(store, data=values, chunks=(4, 2), shards=shards)
    array = zarr.open_array(storage.zarr_store(f"{faulty_place}/rows.zarr", read_only=True))
    array = pickle.loads(pickle.dumps(array))  # as it comes to a worker
    proxy.fault = first(1, "rows.zarr/c/", "404 NoSuchKey")
    np.testing.assert_array_equal(array[:], values)
    assert len(proxy.faults) == 1
    assert "was missing, and is there when asked again" in caplog.text


def test_a_refusal_is_one_line_with_the_servers_reason(proxy, faulty_place):
    proxy.fault = lambda method, path: "403 AccessDenied"
    reason = r"answered 403 Forbidden \(AccessDenied: The message of AccessDenied\.\)$"
    no_body = r"answered 403 Forbidden$"  # of requests that ask for the headers alone
    calls = [
        lambda: storage.read(f"{faulty_place}/x"),
        lambda: storage.replace(f"{faulty_place}/x", b"", None),
        lambda: storage.write(f"{faulty_place}/x", b""),
        lambda: storage.children(faulty_place),
        lambda: storage.is_empty(faulty_place),
        lambda: storage.clear(faulty_place, keep="x"),
        lambda: storage.remove(f"{faulty_place}/x"),
    ]
    for call in calls:
        with pytest.raises(Refusal, match=rf"^{faulty_place}.* written.*({reason}|{no_body})"):
            call()
    with pytest.raises(Invalid, match=rf"^output must be writable, got .*{reason}"):
        storage.check_writable("output", faulty_place)
