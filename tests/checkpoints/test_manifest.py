"""The manifest: what was written is what is read, and of two drivers only one may replace it."""

import json

import pytest

from dkmeans import Conflict, InvalidCheckpoint, checkpoints, storage
from dkmeans.checkpoints import Manifest
from dkmeans.checkpoints.manifest import step_of
from tests.checkpoints.models import save_step

NAMES = ("checkpoint-00000001-0123abcd", "checkpoint-00000002-4567abcd")


def test_a_model_without_a_manifest_has_no_names(model_dir):
    manifest = Manifest.read(model_dir)
    assert manifest == Manifest((), None)
    assert manifest.latest is None


def test_a_replaced_manifest_is_the_one_that_is_read(model_dir):
    manifest = Manifest.read(model_dir).commit(model_dir, NAMES[:1])
    assert Manifest.read(model_dir) == manifest
    manifest = manifest.commit(model_dir, NAMES)
    assert Manifest.read(model_dir) == manifest
    assert (manifest.names, manifest.latest) == (NAMES, NAMES[1])


def test_the_manifest_that_saving_returns_is_the_one_that_is_read(model_dir):
    manifest = save_step(model_dir, 1)
    assert Manifest.read(model_dir) == manifest
    manifest = save_step(model_dir, 2, manifest)
    assert Manifest.read(model_dir) == manifest


def test_a_manifest_that_was_replaced_since_it_was_read_is_not_replaced_again(model_dir):
    empty = Manifest.read(model_dir)
    first = empty.commit(model_dir, NAMES[:1])
    with pytest.raises(Conflict, match="another driver"):
        empty.commit(model_dir, NAMES[1:])
    second = first.commit(model_dir, NAMES)
    with pytest.raises(Conflict, match="another driver"):
        first.commit(model_dir, NAMES[1:])
    assert Manifest.read(model_dir) == second


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "7", '"x"', "{}", '{"format": 1}', '{"format": 1, "checkpoints": 7}'],
)
def test_a_damaged_manifest_is_refused_by_name(model_dir, text):
    save_step(model_dir, 1)
    address = storage.join(model_dir, "checkpoints.json")
    storage.write(address, text.encode())
    with pytest.raises(InvalidCheckpoint, match=r"checkpoints\.json is damaged") as caught:
        checkpoints.latest(model_dir)
    assert address in str(caught.value)


@pytest.mark.parametrize("text", [b"\xff\xfe\x00", b'{"format": 1, "checkpoints": [7]}'])
def test_a_manifest_without_a_list_of_names_is_refused(tmp_path, text):
    save_step(str(tmp_path), 1)
    (tmp_path / "checkpoints.json").write_bytes(text)
    with pytest.raises(InvalidCheckpoint, match="damaged"):
        checkpoints.latest(str(tmp_path))


def test_a_manifest_of_another_format_is_refused_with_both_numbers(model_dir):
    save_step(model_dir, 1)
    content = json.dumps({"format": 3, "checkpoints": []}).encode()
    storage.write(storage.join(model_dir, "checkpoints.json"), content)
    with pytest.raises(InvalidCheckpoint, match="must be of format 2, got 3") as caught:
        checkpoints.latest(model_dir)
    assert model_dir in str(caught.value)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("checkpoint-00000012-0123abcd", 12),
        ("checkpoint-123456789012-0123abcd", 123456789012),
        ("checkpoint-00000012-0123ABCD", -1),
        ("checkpoint-00000012-0123abc", -1),
        ("checkpoint--1-0123abcd", -1),
        ("checkpoint-00000012", -1),
        ("eval", -1),
    ],
)
def test_a_name_has_its_step_and_other_names_have_none(name, step):
    assert step_of(name) == step
